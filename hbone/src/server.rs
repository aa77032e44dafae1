//! The server's side: from an accepted TCP connection to the tunnels that a peer asks for.
//!
//! The connection's own task does TLS and framing and nothing else, a turn at a time (`frame_budget.rs`); it hands each
//! request to a callback, which spawns. Every
//! request gets there, CONNECT or not, with whatever authority: the callee decides 404 or 405. h2 itself refuses what
//! isn't HTTP/2 at all (a CONNECT with `:scheme` or `:path`, an authority with forbidden characters: RST_STREAM with
//! PROTOCOL_ERROR) and header lists that are too large (431).

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificates::trust::PeerRole;
use crate::certificates::trust::peer_identity;
use crate::frames::allowance::{Allowance, Allowances};
use crate::frames::frame_watch::{Flood, FloodMark, FrameWatch};
use crate::http2::{Http2Options, KeepAlive, Squeeze, Windows};
use crate::identity::Identity;
use crate::io::read_ahead::ReadAhead;
use crate::io::reset::io_error;
use crate::io::socket::SocketOptions;
use crate::io::wire::Wire;
use crate::tls::standing::{Standing, Step};
use crate::tls::tls_failure::TlsFailure;
use crate::tls::tls_info::{TlsInfo, TlsSession};
use crate::tls::{ALPN_H2, Tls};
use crate::tunnel::stream::TunnelStream;

/// Settings of the server's side.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// For TLS handshake and HTTP/2 preface together.
    pub handshake_timeout: Duration,
    /// Tunnels at a time on one connection; istiod tells its waypoints 100.
    pub max_concurrent_streams: u32,
    pub http2: Http2Options,
    pub socket: SocketOptions,
    /// Whether peers may send little ahead for now.
    pub squeeze: Squeeze,
    /// What peers may do for nothing.
    pub allowances: Allowances,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            handshake_timeout: Duration::from_secs(10),
            max_concurrent_streams: 100,
            http2: Http2Options::default(),
            socket: SocketOptions::default(),
            squeeze: Squeeze::default(),
            allowances: Allowances::default(),
        }
    }
}

/// Why no HBONE connection came of a TCP connection. The peer has been told by a TLS alert, where there was TLS; the
/// TCP connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error("no certificate of our own yet")]
    NotReady,
    #[error("no TLS and HTTP/2 handshake within {0:?}")]
    Timeout(Duration),
    #[error("TLS: {0}")]
    Tls(#[from] TlsFailure),
    #[error("HTTP/2: {0}")]
    Http2(#[source] io::Error),
    #[error("socket: {0}")]
    Socket(#[source] io::Error),
}

impl AcceptError {
    /// A short name for metric labels; the set is fixed.
    pub fn label(&self) -> &'static str {
        match self {
            AcceptError::NotReady => "not_ready",
            AcceptError::Timeout(_) => "timeout",
            AcceptError::Tls(failure) => failure.label(),
            AcceptError::Http2(_) => "http2",
            AcceptError::Socket(_) => "socket",
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum ConnectionEnd {
    /// The peer closed it, or it was drained and its last stream has ended.
    Closed,
    /// The peer didn't answer a PING in time.
    Silent,
    /// The peer wouldn't be accepted any more; its streams were reset.
    Untrusted(TlsFailure),
    /// The peer sent too many frames that do no work; it was told (GOAWAY), and its streams were reset.
    Flooded(Flood),
    /// TCP, TLS or HTTP/2 failed; all its streams were reset.
    Failed(io::Error),
}

type ServerIo = Wire<TlsStream<ReadAhead<TcpStream>>>;

/// A connection of an identified peer, ready to be served.
pub struct ServerConnection {
    /// The peer's identity, from its certificate.
    pub peer: Identity,
    /// Our identity, as the peer saw it.
    pub local: Identity,
    pub peer_addr: SocketAddr,
    pub local_addr: SocketAddr,
    /// [`Tls::generation`] at the time of the handshake.
    pub certificate_generation: u64,
    pub tls: Arc<TlsInfo>,
    /// What the peer may do for nothing.
    pub allowance: Arc<Allowance>,
    connection: h2::server::Connection<FrameWatch<ServerIo>, Bytes>,
    wire: ServerIo,
    flood: FloodMark,
    keepalive: Option<KeepAlive>,
    standing: Standing,
    windows: Windows,
}

/// Makes an HBONE connection of a TCP connection: TLS 1.3 with verified identities, then HTTP/2.
pub async fn accept(
    tcp: TcpStream,
    tls: &Tls,
    options: &ServerOptions,
) -> Result<ServerConnection, AcceptError> {
    let handshake = Box::pin(handshake(tcp, tls, options));
    match tokio::time::timeout(options.handshake_timeout, handshake).await {
        Ok(result) => result,
        Err(_) => Err(AcceptError::Timeout(options.handshake_timeout)),
    }
}

async fn handshake(
    tcp: TcpStream,
    tls: &Tls,
    options: &ServerOptions,
) -> Result<ServerConnection, AcceptError> {
    let configs = tls.configs();
    let active = configs.active.as_ref().ok_or(AcceptError::NotReady)?;
    let peer_addr = tcp.peer_addr().map_err(AcceptError::Socket)?;
    let local_addr = tcp.local_addr().map_err(AcceptError::Socket)?;
    options.socket.apply(&tcp).map_err(AcceptError::Socket)?;

    let stream = TlsAcceptor::from(active.server.clone())
        .accept(ReadAhead::new(tcp))
        .await
        .map_err(TlsFailure::from_io)?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(ALPN_H2) {
        return Err(TlsFailure::Alpn.into());
    }
    let peer = peer_identity(session.peer_certificates()).map_err(TlsFailure::Peer)?;
    let standing = Standing::new(tls, &configs, PeerRole::Client);

    let wire = Wire::new(stream);
    let look = wire.observer(|tls, local| TlsSession::of(tls.get_ref().1, local));
    let info = TlsInfo::new(active.certificate.clone(), look);
    let allowance = options.allowances.of(&peer);
    let (watched, flood) = FrameWatch::tunnels(wire.clone(), allowance.clone());
    let mut connection = options
        .http2
        .server(options.max_concurrent_streams)
        .handshake(watched)
        .await
        .map_err(|error| AcceptError::Http2(io_error(error)))?;
    wire.defer();
    let keepalive = KeepAlive::new(&options.http2, connection.ping_pong());
    Ok(ServerConnection {
        peer,
        local: active.certificate.identity().clone(),
        peer_addr,
        local_addr,
        certificate_generation: configs.generation,
        tls: Arc::new(info),
        allowance,
        connection,
        wire,
        flood,
        keepalive,
        standing,
        windows: Windows::new(&options.http2, options.squeeze.clone()),
    })
}

impl ServerConnection {
    /// Serves the connection to its end; `on_request` is called for every request and must not block.
    ///
    /// When `drain` resolves, the peer is told to open no more streams (GOAWAY); the connection ends with its last
    /// stream. Dropping the future resets all streams.
    pub async fn serve(
        mut self,
        drain: impl Future<Output = ()>,
        mut on_request: impl FnMut(TunnelRequest),
    ) -> ConnectionEnd {
        let mut drain = pin!(drain);
        let mut drained = false;
        poll_fn(|cx| {
            if !drained && drain.as_mut().poll(cx).is_ready() {
                drained = true;
                self.connection.graceful_shutdown();
            }
            self.poll(cx, &mut on_request)
        })
        .await
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        on_request: &mut impl FnMut(TunnelRequest),
    ) -> Poll<ConnectionEnd> {
        loop {
            let wire = &self.wire;
            let chain =
                || wire.inspect(|tls| tls.get_ref().1.peer_certificates().map(<[_]>::to_vec));
            match self.standing.poll(cx, chain) {
                Step::Stay => break,
                Step::Leave => self.connection.graceful_shutdown(),
                Step::End(reason) => return Poll::Ready(ConnectionEnd::Untrusted(reason)),
            }
        }
        if let Some(keepalive) = &mut self.keepalive
            && keepalive
                .poll_dead(cx, || self.wire.take_received())
                .is_ready()
        {
            return Poll::Ready(ConnectionEnd::Silent);
        }
        self.windows.follow(&mut self.connection);
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    on_request(TunnelRequest { request, respond })
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.ended(cx, error)),
                Poll::Ready(None) => return Poll::Ready(ConnectionEnd::Closed),
                Poll::Pending => break,
            }
        }
        match self.wire.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(ConnectionEnd::Failed(error)),
            _ => Poll::Pending,
        }
    }

    /// Peers that just go away, as killed processes do, are no failure of the protocol.
    fn ended(&mut self, cx: &mut Context<'_>, error: h2::Error) -> ConnectionEnd {
        if let Some(flood) = self.flood.get() {
            // The GOAWAY, if the peer takes it at once.
            let _ = self.wire.poll_drain(cx);
            return ConnectionEnd::Flooded(flood);
        }
        if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) {
            return ConnectionEnd::Closed;
        }
        ConnectionEnd::Failed(io_error(error))
    }
}

/// A request on its own stream, to be accepted or rejected. Dropping it resets the stream.
pub struct TunnelRequest {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

impl TunnelRequest {
    pub fn method(&self) -> &Method {
        self.request.method()
    }

    /// Whether this is a plain CONNECT (RFC 9113 §8.5), not an extended one (RFC 8441).
    pub fn is_connect(&self) -> bool {
        self.request.method() == Method::CONNECT
            && self
                .request
                .extensions()
                .get::<h2::ext::Protocol>()
                .is_none()
    }

    /// `:authority` as it came; empty if there was none. Parse it: [`crate::authority::Authority`].
    pub fn authority(&self) -> &str {
        self.request
            .uri()
            .authority()
            .map_or("", |authority| authority.as_str())
    }

    /// `:path` with query as it came; empty for a CONNECT.
    pub fn path(&self) -> &str {
        self.request
            .uri()
            .path_and_query()
            .map_or("", |path| path.as_str())
    }

    pub fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// The HTTP/2 stream's number, for logs.
    pub fn stream_id(&self) -> u32 {
        self.respond.stream_id().as_u32()
    }

    /// Answers 200 with these headers and opens the tunnel. The error says that the peer has given up meanwhile.
    pub fn accept(mut self, headers: HeaderMap) -> io::Result<TunnelStream> {
        let response = response(StatusCode::OK, headers);
        let send = self
            .respond
            .send_response(response, false)
            .map_err(io_error)?;
        Ok(TunnelStream::new(send, self.request.into_body()))
    }

    /// Answers with this status and headers, and ends the stream.
    pub fn reject(mut self, status: StatusCode, headers: HeaderMap) {
        // It fails only if the peer has given up: then nobody waits for an answer.
        let _ = self.respond.send_response(response(status, headers), true);
    }
}

fn response(status: StatusCode, headers: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
