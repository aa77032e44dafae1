//! A tunnel's last moments: what ends first on our side waits a little for the other side.
//!
//! Dropping a stream whose peer hasn't ended its direction resets it, and a peer that is told of the reset
//! together with the last bytes may throw those away (RFC 9113 §8.1 leaves it to the peer). So once our
//! direction has ended, the stream is kept until the peer's has, too, or `delayed_close_timeout` is over.
//!
//! hyper drops the stream without ending it after an upgrade that nobody took. Only an exchange that
//! failed resets the stream: its answer must not look whole. Before that, what came of the answer gets the same time to
//! reach the client, as from Envoy.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::downstream::http::connection::HttpConnection;

/// How long a peer may take to end its direction after ours, where nothing is configured.
const LINGER: Duration = Duration::from_secs(1);

/// A tunnel that lingers when it is dropped after its end.
pub(crate) struct Lingering {
    stream: Option<TunnelStream>,
    finished: bool,
    connection: Option<Arc<HttpConnection>>,
    /// Somebody waits for what the client sends, and will hear of a reset by that.
    reading: bool,
}

impl Lingering {
    /// `connection` says whether the exchange failed.
    pub(crate) fn new(stream: TunnelStream, connection: Option<Arc<HttpConnection>>) -> Lingering {
        Lingering {
            stream: Some(stream),
            finished: false,
            connection,
            reading: false,
        }
    }

    fn failed(&self) -> bool {
        let failed = |connection: &Arc<HttpConnection>| connection.failed.load(Ordering::Relaxed);
        std::thread::panicking() || self.connection.as_ref().is_some_and(failed)
    }

    /// Whether the client has something to read of an answer that broke off.
    fn answer_broke_off(&self) -> bool {
        let said = |connection: &Arc<HttpConnection>| connection.delayed_failures.any();
        self.connection.as_ref().is_some_and(said)
    }

    fn inner(&mut self) -> io::Result<Pin<&mut TunnelStream>> {
        match &mut self.stream {
            Some(stream) => Ok(Pin::new(stream)),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let failed = self.failed() && !self.finished;
        let broke_off = failed && self.answer_broke_off();
        let configured =
            |connection: &Arc<HttpConnection>| connection.first.connections.delayed_close;
        let linger = self.connection.as_ref().map_or(LINGER, configured);
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        let ended = self.finished || (!failed && stream.finish().is_ok());
        if (broke_off || (ended && !stream.is_end()))
            && tokio::runtime::Handle::try_current().is_ok()
        {
            tokio::spawn(async move {
                let ended = async {
                    while let Some(Ok(bytes)) = poll_fn(|cx| stream.poll_data(cx)).await {
                        stream.release(bytes.len());
                    }
                    if broke_off {
                        let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
                    }
                };
                let _ = tokio::time::timeout(linger, ended).await;
            });
        }
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.inner()?.poll_read(cx, buffer);
        self.reading = read.is_pending();
        read
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper reads no further while nobody takes a request's body. A client that is gone must be heard of all the same,
        // or what it sent is held for as long as the upstream stalls.
        if !self.reading
            && let Poll::Ready(error) = self.inner()?.get_mut().poll_reset(cx)
        {
            return Poll::Ready(Err(error));
        }
        let flushed = self.inner()?.poll_flush(cx);
        if flushed.is_ready()
            && let Some(connection) = &self.connection
        {
            connection.delayed_failures.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = self.inner()?.poll_shutdown(cx);
        self.finished |= matches!(done, Poll::Ready(Ok(())));
        done
    }
}
