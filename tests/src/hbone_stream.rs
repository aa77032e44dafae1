//! The two halves of an HTTP/2 stream as one byte stream, with HTTP/2's back-pressure.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The inside of a tunnel.
pub struct HboneStream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    left: Bytes,
    frames: Arc<AtomicUsize>,
}

impl HboneStream {
    /// Counts DATA frames with something in them.
    #[must_use]
    pub fn counting(mut self, frames: Arc<AtomicUsize>) -> HboneStream {
        self.frames = frames;
        self
    }

    #[must_use]
    pub fn new(send: SendStream<Bytes>, recv: RecvStream) -> HboneStream {
        HboneStream {
            send,
            recv,
            left: Bytes::new(),
            frames: Arc::default(),
        }
    }

    /// RST_STREAM.
    pub fn reset(mut self, reason: Reason) {
        self.send.send_reset(reason);
    }
}

impl AsyncRead for HboneStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(bytes)) => {
                    let frames = usize::from(!bytes.is_empty());
                    self.frames.fetch_add(frames, Ordering::Relaxed);
                    self.left = bytes;
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let n = self.left.len().min(buffer.remaining());
        buffer.put_slice(&self.left[..n]);
        self.left.advance(n);
        let _ = self.recv.flow_control().release_capacity(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HboneStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(bytes.len().min(16 * 1024));
        match ready!(self.send.poll_capacity(cx)) {
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
            Some(Ok(capacity)) => {
                let n = capacity.min(bytes.len());
                let chunk = Bytes::copy_from_slice(&bytes[..n]);
                self.send
                    .send_data(chunk, false)
                    .map_err(io::Error::other)?;
                Poll::Ready(Ok(n))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(
            self.send
                .send_data(Bytes::new(), true)
                .map_err(io::Error::other),
        )
    }
}
