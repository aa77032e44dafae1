//! Reading in few, large system calls: rustls reads 4 KiB at a time, and h2 8 KiB.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Two TLS records' worth of read-ahead per connection.
const READ_BUFFER: usize = 32 * 1024;

/// Reads as much as has arrived in one system call, and hands it out in the portions asked for.
pub struct ReadAhead<T> {
    io: T,
    /// Bytes read at once; none: they go straight to who asks.
    ahead: usize,
    buffer: Vec<u8>,
    start: usize,
    /// The buffer is given back while there is nothing to read.
    gives_back: bool,
}

impl<T> ReadAhead<T> {
    pub(crate) fn new(io: T) -> ReadAhead<T> {
        ReadAhead {
            io,
            ahead: READ_BUFFER,
            buffer: Vec::new(),
            start: 0,
            gives_back: false,
        }
    }

    /// For one of very many, which has no buffer while there is nothing to read; and none at all where `io` makes no
    /// system calls.
    pub fn at_need(io: T, makes_calls: bool) -> ReadAhead<T> {
        ReadAhead {
            ahead: if makes_calls { READ_BUFFER } else { 0 },
            gives_back: true,
            ..ReadAhead::new(io)
        }
    }

    pub fn get_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// What is below, before anything was read: what was read ahead is lost.
    pub fn into_inner(self) -> T {
        self.io
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start >= this.buffer.len() {
            if this.ahead == 0 {
                return Pin::new(&mut this.io).poll_read(cx, buf);
            }
            this.buffer.clear();
            this.start = 0;
            this.buffer.reserve_exact(this.ahead);
            let read = pin!(this.io.read_buf(&mut this.buffer)).poll(cx);
            if read.is_pending() && this.gives_back {
                this.buffer = Vec::new();
            }
            ready!(read)?;
        }
        let ready = this.buffer.get(this.start..).unwrap_or_default();
        let n = ready.len().min(buf.remaining());
        buf.put_slice(ready.get(..n).unwrap_or_default());
        this.start += n;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn read_ahead_hands_out_portions() {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(&[7; 10_000]).await.unwrap();
        drop(far);
        let mut ahead = ReadAhead::new(near);
        let mut portion = [0; 4096];
        assert_eq!(ahead.read(&mut portion).await.unwrap(), 4096);
        let mut rest = Vec::new();
        assert_eq!(ahead.read_to_end(&mut rest).await.unwrap(), 10_000 - 4096);
    }

    #[tokio::test]
    async fn what_is_read_at_need_leaves_no_buffer_behind() {
        let (near, mut far) = duplex(1 << 20);
        let mut ahead = ReadAhead::at_need(near, true);
        far.write_all(&[7; 100]).await.unwrap();
        let mut portion = [0; 60];
        assert_eq!(ahead.read(&mut portion).await.unwrap(), 60);
        assert_eq!(ahead.buffer.capacity(), READ_BUFFER);
        assert_eq!(ahead.read(&mut portion).await.unwrap(), 40);
        let more = poll_fn(|cx| Poll::Ready(pin!(ahead.read(&mut portion)).poll(cx)));
        assert!(more.await.is_pending());
        assert_eq!(ahead.buffer.capacity(), 0);
        let (near, mut far) = duplex(1 << 20);
        let mut through = ReadAhead::at_need(near, false);
        far.write_all(&[7; 100]).await.unwrap();
        assert_eq!(through.read(&mut portion).await.unwrap(), 60);
        assert_eq!(through.buffer.capacity(), 0);
    }
}
