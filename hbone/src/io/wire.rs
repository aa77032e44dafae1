//! The bytes under an HTTP/2 connection: few, large TLS records and few system calls.
//!
//! h2 flushes after every DATA frame it sends, and rustls makes a record and a system call of every write: one tunnel's small
//! answer costs as much as ten. So a connection's task defers flushes: h2 writes into one buffer, and
//! the task writes the buffer out when h2 has nothing more to do ([`Wire::poll_drain`]). An HTTP/2 connection inside of a tunnel,
//! or to an upstream, does the same ([`Wire::gathering`]): there each write would be a frame of the tunnel, or a system call.
//!
//! [`Wire`] is shared between h2, which owns its transport and doesn't give it back, and the task that drives h2. Both
//! run in the same task, so the mutex between them is never contended.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is buffered before it goes to TLS all the same: four full records.
const WRITE_BUFFER: usize = 64 * 1024;
/// The same of a connection that is one of very many: a full frame.
const GATHERED: usize = 16 * 1024;

/// A transport whose flushes can be deferred. Clones share it.
pub struct Wire<T> {
    shared: Arc<Mutex<Shared<T>>>,
}

struct Shared<T> {
    io: T,
    /// Written by h2 and not yet taken by `io`: `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
    /// How much is buffered at most.
    limit: usize,
    /// What the last buffer came to, where buffers are given back when they are empty.
    given_back: Option<usize>,
    deferred: bool,
    /// Writing has failed, which h2 has to be told.
    failed: bool,
    /// `io` took bytes that it may still hold back.
    unflushed: bool,
    received: bool,
    /// A flush that was deferred.
    asked: bool,
}

/// What a gathering [`Wire`] has to write. It doesn't keep the transport.
pub struct Gathered<T> {
    shared: Weak<Mutex<Shared<T>>>,
}

impl<T> Clone for Gathered<T> {
    fn clone(&self) -> Gathered<T> {
        Gathered {
            shared: self.shared.clone(),
        }
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    /// Whether bytes have arrived since the last call.
    pub(crate) fn take_received(&self) -> bool {
        let shared = self.shared.upgrade();
        shared.is_some_and(|shared| std::mem::take(&mut shared.lock().received))
    }

    /// Writes it out, and flushes, if a flush was asked for since the last call: only the task that drives h2 asks, so whoever
    /// else calls this does nothing, and never waits in its place. A failure is also told to h2, when it runs again.
    pub fn poll_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(shared) = self.shared.upgrade() else {
            return Poll::Ready(Ok(()));
        };
        let mut shared = shared.lock();
        if !std::mem::take(&mut shared.asked) {
            return Poll::Ready(Ok(()));
        }
        shared.unflushed = true;
        shared.poll_drain(cx)
    }

    /// Runs `turn`, which may drive h2, and lets what it wrote leave together.
    pub fn poll_turn<R>(
        &self,
        cx: &mut Context<'_>,
        mut turn: impl FnMut(&mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        let turned = turn(cx);
        match self.poll_out(cx) {
            Poll::Ready(Err(_)) if turned.is_pending() => turn(cx),
            _ => turned,
        }
    }
}

impl<T> Clone for Wire<T> {
    fn clone(&self) -> Wire<T> {
        Wire {
            shared: self.shared.clone(),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire<T> {
    /// Flushes are carried out at once until [`Wire::defer`].
    pub(crate) fn new(io: T) -> Wire<T> {
        Wire::with(Shared::new(io))
    }

    /// Flushes are left to [`Gathered`] from the beginning, and no buffer is kept while there is nothing to write.
    pub fn gathering(io: T) -> (Wire<T>, Gathered<T>) {
        let wire = Wire::with(Shared {
            limit: GATHERED,
            given_back: Some(0),
            deferred: true,
            ..Shared::new(io)
        });
        let gathered = Gathered {
            shared: Arc::downgrade(&wire.shared),
        };
        (wire, gathered)
    }

    fn with(shared: Shared<T>) -> Wire<T> {
        Wire {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// From now on a flush does nothing, but tell of a failure: whoever drives the connection calls [`Wire::poll_drain`] after each turn.
    pub(crate) fn defer(&self) {
        self.shared.lock().deferred = true;
    }

    /// Writes out all that is buffered.
    pub(crate) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.lock().poll_drain(cx)
    }

    /// Looks at the transport.
    pub(crate) fn inspect<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.shared.lock().io)
    }

    /// The same for others, as long as the transport is there.
    pub(crate) fn observer<A: ?Sized, R, F: Fn(&T, &A) -> R>(
        &self,
        look: F,
    ) -> impl Fn(&A) -> Option<R> + use<T, A, R, F> {
        let shared = Arc::downgrade(&self.shared);
        move |with| Some(look(&shared.upgrade()?.lock().io, with))
    }

    /// Whether bytes have arrived since the last call.
    pub(crate) fn take_received(&self) -> bool {
        std::mem::take(&mut self.shared.lock().received)
    }
}

impl<T> Shared<T> {
    fn new(io: T) -> Shared<T> {
        Shared {
            io,
            buffer: Vec::new(),
            start: 0,
            limit: WRITE_BUFFER,
            given_back: None,
            deferred: false,
            failed: false,
            unflushed: false,
            received: false,
            asked: false,
        }
    }
}

impl<T: AsyncWrite + Unpin> Shared<T> {
    fn buffered(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start >= self.buffer.len() {
            match &mut self.given_back {
                Some(length) => {
                    *length = self.buffer.len();
                    self.buffer = Vec::new();
                }
                None => self.buffer.clear(),
            }
            self.start = 0;
        }
    }

    fn poll_write_buffer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.start < self.buffer.len() {
            let bytes = self.buffer.get(self.start..).unwrap_or_default();
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.consume(n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let drained = ready!(self.poll_write_out(cx));
        self.failed = drained.is_err();
        Poll::Ready(drained)
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_buffer(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.buffered().len() + length > self.limit {
            ready!(self.poll_write_buffer(cx))?;
            if length > self.limit {
                self.unflushed = true;
                return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
            }
        }
        if self.buffer.capacity() == 0 {
            // As much as the last time, most likely.
            self.buffer
                .reserve(length.max(self.given_back.unwrap_or(0)));
        }
        for slice in slices {
            self.buffer.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        ready!(Pin::new(&mut shared.io).poll_read(cx, buf))?;
        shared.received = true;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.lock().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.lock().poll_write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        if shared.deferred && !shared.failed {
            shared.asked = true;
            Poll::Ready(Ok(()))
        } else {
            shared.poll_drain(cx)
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        ready!(shared.poll_drain(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Counts the writes and takes at most `limit` bytes at a time.
    struct Counting {
        io: tokio::io::DuplexStream,
        writes: Arc<Mutex<Vec<usize>>>,
    }

    impl AsyncRead for Counting {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            let n = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
            this.writes.lock().push(n);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
        }
    }

    fn wire(
        capacity: usize,
    ) -> (
        Wire<Counting>,
        tokio::io::DuplexStream,
        Arc<Mutex<Vec<usize>>>,
    ) {
        let (near, far) = duplex(capacity);
        let writes = Arc::new(Mutex::new(Vec::new()));
        (
            Wire::new(Counting {
                io: near,
                writes: writes.clone(),
            }),
            far,
            writes,
        )
    }

    #[tokio::test]
    async fn deferred_flushes_become_one_write() {
        let (mut wire, mut far, writes) = wire(1 << 20);
        wire.write_all(b"settings").await.unwrap();
        wire.flush().await.unwrap();
        assert_eq!(*writes.lock(), [8]);
        wire.defer();
        for _ in 0..10 {
            wire.write_all(&[1; 1000]).await.unwrap();
            wire.flush().await.unwrap();
        }
        assert_eq!(writes.lock().len(), 1);
        poll_fn(|cx| wire.poll_drain(cx)).await.unwrap();
        assert_eq!(*writes.lock(), [8, 10_000]);
        let mut all = vec![0; 10_008];
        far.read_exact(&mut all).await.unwrap();
        assert!(!wire.take_received());
    }

    #[tokio::test]
    async fn what_is_gathered_leaves_in_one_write_and_no_buffer_stays() {
        let (near, mut far) = duplex(100_000);
        let writes = Arc::new(Mutex::new(Vec::new()));
        let (mut wire, gathered) = Wire::gathering(Counting {
            io: near,
            writes: writes.clone(),
        });
        for _ in 0..10 {
            wire.write_all(&[1; 1000]).await.unwrap();
            wire.flush().await.unwrap();
        }
        assert!(writes.lock().is_empty());
        poll_fn(|cx| gathered.poll_out(cx)).await.unwrap();
        assert_eq!(*writes.lock(), [10_000]);
        assert_eq!(wire.shared.lock().buffer.capacity(), 0);
        wire.write_all(&[2; 10]).await.unwrap();
        poll_fn(|cx| gathered.poll_out(cx)).await.unwrap();
        assert_eq!(writes.lock().len(), 1, "nobody has asked for a flush");
        // More than a full frame goes at once, behind what was there before.
        wire.write_all(&[3; 20_000]).await.unwrap();
        assert_eq!(*writes.lock(), [10_000, 10, 20_000]);
        let mut all = vec![0; 30_010];
        far.read_exact(&mut all).await.unwrap();
        assert_eq!((all[9_999], all[10_000], all[10_010]), (1, 2, 3));
    }

    #[tokio::test]
    async fn a_failure_is_told_by_the_next_flush() {
        let (mut wire, far, _) = wire(1000);
        wire.defer();
        wire.write_all(b"frames").await.unwrap();
        drop(far);
        wire.flush().await.unwrap();
        let drained = poll_fn(|cx| wire.poll_drain(cx)).await;
        assert_eq!(drained.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(wire.flush().await.is_err());
    }

    #[tokio::test]
    async fn the_buffer_is_bounded_and_bytes_stay_in_order() {
        let (mut wire, mut far, _) = wire(1000);
        wire.defer();
        let sent: Vec<u8> = (0..400_000_u32).flat_map(u32::to_be_bytes).collect();
        let expected = sent.clone();
        let reader = tokio::spawn(async move {
            let mut all = vec![0; expected.len()];
            far.read_exact(&mut all).await.unwrap();
            all == expected
        });
        let mut rest = sent.as_slice();
        let mut portion = 1;
        while !rest.is_empty() {
            // Small, large and larger than the buffer.
            let (now, later) = rest.split_at((portion * 7919 % 150_000).min(rest.len()));
            wire.write_all(now).await.unwrap();
            assert!(wire.shared.lock().buffered().len() <= WRITE_BUFFER);
            (rest, portion) = (later, portion + 1);
        }
        wire.shutdown().await.unwrap();
        assert!(reader.await.unwrap());
    }
}
