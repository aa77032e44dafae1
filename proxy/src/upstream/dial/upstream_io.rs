//! The byte stream under an upstream connection: a TCP socket, or a tunnel to the endpoint's ztunnel, or TLS in one of them.
//!
//! An upstream that has answered may close while the request is still being sent to it: then writing fails though
//! the answer has come, and hyper would give up before it read it. So under HTTP/1.1 a failed write is not told;
//! what is written from there on is lost, and what the upstream did is learnt from reading.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use waypoint_hbone::tls::origination::OriginatedStream;
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::upstream::dial::carrier::Carrier;
use crate::upstream::dial::upload::Upload;
use crate::upstream::limits::open::Open;
use crate::upstream::limits::place::Place;

/// An upstream byte stream.
pub(crate) struct UpstreamIo {
    pub(crate) kind: Kind,
    /// While it is open it counts against the cluster's limit, if there is one.
    pub(crate) place: Option<Place>,
    /// Under HTTP/1.1.
    upload: Option<Arc<Upload>>,
    /// It counts among all that are open.
    pub(crate) open: Open,
}

pub(crate) enum Kind {
    Tcp(TcpStream),
    Tunnel(Box<TunnelStream>),
    /// In either of them.
    Tls(OriginatedStream<Carrier>),
}

impl Kind {
    pub(crate) fn is_tunnelled(&mut self) -> bool {
        self.tunnel().is_some()
    }

    /// The tunnel that it is, or runs in.
    pub(crate) fn tunnel(&mut self) -> Option<&mut TunnelStream> {
        match self {
            Kind::Tcp(_) => None,
            Kind::Tunnel(tunnel) => Some(tunnel),
            Kind::Tls(tls) => match tls.get_mut() {
                Carrier::Tcp(_) => None,
                Carrier::Tunnel(tunnel) => Some(tunnel),
            },
        }
    }
}

impl UpstreamIo {
    pub(crate) fn new(kind: Kind, open: Open) -> UpstreamIo {
        UpstreamIo {
            kind,
            place: None,
            open,
            upload: None,
        }
    }

    /// The stream will carry HTTP/1.1, whose requests' progress is told to `upload`.
    pub(crate) fn carry_http1(&mut self, upload: Arc<Upload>) {
        self.upload = Some(upload);
    }

    /// Writes these with `write`.
    fn write(
        &mut self,
        slices: &[io::IoSlice<'_>],
        write: impl FnOnce(&mut Kind) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Some(upload) = &self.upload else {
            return write(&mut self.kind);
        };
        if let Some(tunnel) = self.kind.tunnel()
            && let Some(holder) = upload.take_holder()
        {
            tunnel.carry_for(holder.as_ref());
        }
        let length = slices.iter().map(|slice| slice.len()).sum();
        if upload.is_broken() {
            return Poll::Ready(Ok(length));
        }
        let mut written = write(&mut self.kind);
        if let Poll::Ready(Ok(written)) = written {
            upload.count_sent(slices, written);
        }
        if matches!(written, Poll::Ready(Err(_))) {
            upload.broke();
            written = Poll::Ready(Ok(length));
        }
        upload.wrote(&written);
        written
    }

    fn is_broken(&self) -> bool {
        self.upload
            .as_ref()
            .is_some_and(|upload| upload.is_broken())
    }
}

impl AsyncRead for UpstreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = match &mut this.kind {
            Kind::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Kind::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_read(cx, buffer),
            Kind::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        };
        if let Some(upload) = &this.upload
            && buffer.filled().len() > before
        {
            upload.hear();
            upload.count_received(buffer.filled().len() - before);
        }
        read
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let slices = [io::IoSlice::new(bytes)];
        self.get_mut().write(&slices, |kind| match kind {
            Kind::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Kind::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_write(cx, bytes),
            Kind::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(slices, |kind| match kind {
            Kind::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Kind::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_write_vectored(cx, slices),
            Kind::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_broken() {
            return Poll::Ready(Ok(()));
        }
        match &mut self.get_mut().kind {
            Kind::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Kind::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_flush(cx),
            Kind::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Kind::Tunnel(tunnel) => Pin::new(tunnel.as_mut()).poll_shutdown(cx),
            Kind::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
