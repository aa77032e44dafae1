//! Bytes both ways between two streams, each direction ending on its own.
//!
//! Between tunnels, and from a tunnel to a socket, the bytes aren't copied at all. Back-pressure is kept: a source is
//! read only when the sink has taken what was read before, and a tunnel's window is given back only then. From a socket
//! the buffers grow with the traffic, 1 → 16 → 256 KiB, and none is held while nothing comes. Small frames of a tunnel that have
//! come together go on together: what they cost onward is one write, whoever cuts them how small.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::tunnel::stream::{SMALL_FRAME, TunnelStream};

/// A stream of bytes in both directions, as [`copy`] needs it.
pub trait ByteStream {
    /// The next bytes; `None`: the peer ended its direction.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>>;
    /// `n` of the bytes handed out went onward.
    fn release(&mut self, n: usize);
    /// Sends at least one byte from the front of `bytes`, which isn't empty.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<()>>;
    /// What was sent must not linger: nothing more comes for now.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ends our direction.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ready when the peer has gone altogether, while nothing is read of it: its direction has ended, or has to wait.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;
}

/// What has been copied; may be read while the copy goes on.
#[derive(Debug, Default)]
pub struct Copied {
    /// Bytes from the first stream to the second.
    pub forward: AtomicU64,
    /// Bytes from the second stream to the first.
    pub backward: AtomicU64,
}

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    First,
    Second,
}

/// Why a copy ended before both directions had.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("the {0:?} stream failed: {1}")]
    Stream(Side, #[source] io::Error),
    #[error("nothing came for {0:?}")]
    Idle(Duration),
}

/// Copies both ways until both directions have ended. A direction that ends is ended on the other side, too. On an
/// error, and when it's dropped, the caller drops the streams, which resets tunnels.
pub async fn copy<A: ByteStream, B: ByteStream>(
    first: &mut A,
    second: &mut B,
    copied: &Copied,
    idle_timeout: Option<Duration>,
) -> Result<(), CopyError> {
    let mut forward = Direction::default();
    let mut backward = Direction::default();
    let mut idle = idle_timeout.map(Idle::new);
    poll_fn(|cx| {
        let mut progress = false;
        let there = forward.poll(cx, first, second, &copied.forward, &mut progress);
        if let Poll::Ready(Err((of_source, error))) = there {
            let side = if of_source { Side::First } else { Side::Second };
            return Poll::Ready(Err(CopyError::Stream(side, error)));
        }
        let back = backward.poll(cx, second, first, &copied.backward, &mut progress);
        if let Poll::Ready(Err((of_source, error))) = back {
            let side = if of_source { Side::Second } else { Side::First };
            return Poll::Ready(Err(CopyError::Stream(side, error)));
        }
        if there.is_ready() && back.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if let Some(idle) = &mut idle
            && idle.poll(cx, progress).is_ready()
        {
            return Poll::Ready(Err(CopyError::Idle(idle.timeout)));
        }
        Poll::Pending
    })
    .await
}

/// After so many portions in one turn, others get theirs.
const TURN: usize = 64;

/// One direction of a copy.
#[derive(Default)]
struct Direction {
    pending: Bytes,
    state: State,
    unflushed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The source has ended, the sink doesn't know yet.
    Ending,
    Ended,
}

impl Direction {
    /// Ready when the direction has ended; the error says whether the source was at fault.
    fn poll<S: ByteStream, T: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut T,
        count: &AtomicU64,
        progress: &mut bool,
    ) -> Poll<Result<(), (bool, io::Error)>> {
        for _ in 0..TURN {
            if !self.pending.is_empty() {
                let before = self.pending.len();
                let Poll::Ready(sent) = sink.poll_send(cx, &mut self.pending) else {
                    // Nothing is read of the source meanwhile, however long: a reset would go unnoticed.
                    let gone = source.poll_reset(cx);
                    return gone.map(|error| Err((true, error)));
                };
                sent.map_err(|error| (false, error))?;
                let n = before - self.pending.len();
                source.release(n);
                count.fetch_add(n as u64, Ordering::Relaxed);
                self.unflushed = true;
                *progress = true;
                continue;
            }
            match self.state {
                State::Open => match source.poll_data(cx) {
                    Poll::Ready(Some(Ok(bytes))) => self.pending = bytes,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err((true, error))),
                    Poll::Ready(None) => self.state = State::Ending,
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(sink.poll_flush(cx)).map_err(|error| (false, error))?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
                State::Ending => {
                    ready!(sink.poll_finish(cx)).map_err(|error| (false, error))?;
                    self.state = State::Ended;
                    *progress = true;
                }
                State::Ended => {
                    // Nobody reads the source any more: a reset would go unnoticed while the other direction waits.
                    if let Poll::Ready(error) = source.poll_reset(cx) {
                        return Poll::Ready(Err((true, error)));
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Looks at the clock when its timer fires, not at every byte.
struct Idle {
    timeout: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    fn new(timeout: Duration) -> Idle {
        Idle {
            timeout,
            since: Instant::now(),
            timer: Box::pin(tokio::time::sleep(timeout)),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, progress: bool) -> Poll<()> {
        if progress {
            self.since = Instant::now();
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let due = self.since + self.timeout;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

/// Adds the small frames that have come behind `first`. An end, or an error, is told again by the next look.
fn gather(tunnel: &mut TunnelStream, cx: &mut Context<'_>, first: Bytes) -> Bytes {
    let mut gathered = BytesMut::new();
    while gathered.len() < MEDIUM {
        let next = match TunnelStream::poll_data(tunnel, cx) {
            Poll::Ready(Some(Ok(next))) if next.len() < SMALL_FRAME => next,
            Poll::Ready(Some(Ok(next))) => {
                tunnel.unread(next);
                break;
            }
            _ => break,
        };
        if gathered.is_empty() {
            gathered.extend_from_slice(&first);
        }
        gathered.extend_from_slice(&next);
    }
    if gathered.is_empty() {
        first
    } else {
        gathered.freeze()
    }
}

/// Of whatever kind.
impl<S: ByteStream + ?Sized> ByteStream for Box<S> {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        (**self).poll_data(cx)
    }

    fn release(&mut self, n: usize) {
        (**self).release(n);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<()>> {
        (**self).poll_send(cx, bytes)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_flush(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_finish(cx)
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        (**self).poll_reset(cx)
    }
}

impl ByteStream for TunnelStream {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        Poll::Ready(match ready!(TunnelStream::poll_data(self, cx)) {
            Some(Ok(first)) if first.len() < SMALL_FRAME => Some(Ok(gather(self, cx, first))),
            other => other,
        })
    }

    fn release(&mut self, n: usize) {
        TunnelStream::release(self, n);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<()>> {
        TunnelStream::poll_send(self, cx, bytes)
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        TunnelStream::poll_reset(self, cx)
    }
}

/// A socket, or anything else that reads and writes, as a [`ByteStream`].
#[derive(Debug)]
pub struct Socket<T> {
    io: T,
    size: usize,
}

const SMALL: usize = 1024;
const MEDIUM: usize = 16 * 1024;
const LARGE: usize = 256 * 1024;

impl<T> Socket<T> {
    pub fn new(io: T) -> Socket<T> {
        Socket { io, size: SMALL }
    }

    pub fn get_ref(&self) -> &T {
        &self.io
    }

    pub fn into_inner(self) -> T {
        self.io
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> ByteStream for Socket<T> {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let mut buffer = BytesMut::with_capacity(self.size);
        let read = pin!(self.io.read_buf(&mut buffer)).poll(cx);
        match read {
            Poll::Ready(Ok(0)) => Poll::Ready(None),
            Poll::Ready(Ok(n)) => {
                self.size = match n {
                    n if n >= MEDIUM => LARGE,
                    n if n >= SMALL => MEDIUM,
                    _ => SMALL,
                };
                Poll::Ready(Some(Ok(buffer.freeze())))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Pending => {
                // The next attempt may be in vain, too: it shall not cost a large allocation.
                self.size = self.size.min(MEDIUM);
                Poll::Pending
            }
        }
    }

    fn release(&mut self, _n: usize) {}

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<()>> {
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        bytes.advance(n);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A peer that has already closed needs no telling.
        match ready!(Pin::new(&mut self.io).poll_shutdown(cx)) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // What knows of it beside reading and writing, as a tunnel below other layers, says so here. Of sockets a write
        // will tell.
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let (mut client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        let copied = std::sync::Arc::new(Copied::default());
        let seen = copied.clone();
        let task = tokio::spawn(async move {
            copy(&mut Socket::new(near), &mut Socket::new(far), &seen, None).await
        });
        client.write_all(b"request").await.unwrap();
        client.shutdown().await.unwrap();
        let mut request = String::new();
        server.read_to_string(&mut request).await.unwrap();
        assert_eq!(request, "request");
        // The other direction is still open, long after.
        let answer = vec![b'x'; 100_000];
        let (sent, received) = tokio::join!(
            async {
                server.write_all(&answer).await.unwrap();
                server.shutdown().await.unwrap();
            },
            async {
                let mut received = Vec::new();
                client.read_to_end(&mut received).await.unwrap();
                received.len()
            }
        );
        assert_eq!((sent, received), ((), 100_000));
        task.await.unwrap().unwrap();
        assert_eq!(copied.forward.load(Ordering::Relaxed), 7);
        assert_eq!(copied.backward.load(Ordering::Relaxed), 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_traffic_does_not() {
        let (mut client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        let start = Instant::now();
        let task = tokio::spawn(async move {
            let timeout = Some(Duration::from_millis(400));
            copy(
                &mut Socket::new(near),
                &mut Socket::new(far),
                &Copied::default(),
                timeout,
            )
            .await
        });
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'x');
        }
        assert!(matches!(task.await.unwrap(), Err(CopyError::Idle(_))));
        assert_eq!(start.elapsed(), Duration::from_millis(1000));
    }

    #[test]
    fn the_future_is_small() {
        async fn pair(
            a: &mut TunnelStream,
            b: &mut Socket<tokio::net::TcpStream>,
        ) -> Result<(), CopyError> {
            copy(a, b, &Copied::default(), None).await
        }
        fn size_of_output<'a, F: Future, T: 'a, U: 'a>(
            _: impl FnOnce(&'a mut T, &'a mut U) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let size = size_of_output(pair);
        assert!(size <= 512, "{size}");
    }
}
