//! The client's side: a connection to another workload's HBONE port, and tunnels on it.
//!
//! A tunnel is handed out after the server's 200. Before that, not a byte of the stream that is to go through it has
//! left, so trying again never repeats anything.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::uri::{Authority, Uri};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::trust::PeerRole;
use crate::certificates::trust::peer_identity;
use crate::frames::allowance::DEFAULT_BUDGET;
use crate::frames::frame_watch::{Flood, FloodMark, FrameWatch};
use crate::http2::{Http2Options, KeepAlive};
use crate::io::read_ahead::ReadAhead;
use crate::io::reset::io_error;
use crate::io::socket::SocketOptions;
use crate::io::wire::Wire;
use crate::tls::standing::{Standing, Step};
use crate::tls::tls_failure::TlsFailure;
use crate::tls::tls_info::{TlsInfo, TlsSession};
use crate::tls::{ALPN_H2, Tls};
pub use crate::tunnel::connect_error::ConnectError;
pub use crate::tunnel::connection::ClientConnection;
use crate::tunnel::connection::{Lease, Owned, Shared};
use crate::tunnel::stream::TunnelStream;

/// Settings of the client's side.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// For TCP, TLS and HTTP/2 handshake together.
    pub connect_timeout: Duration,
    /// From CONNECT to its answer.
    pub response_timeout: Duration,
    /// The address that connections come from.
    pub source: Option<IpAddr>,
    pub http2: Http2Options,
    pub socket: SocketOptions,
    /// What a server may send for nothing.
    pub floods: ServerFloods,
}

/// The budget of each server for frames that do no work, and who is told when one has spent it.
#[derive(Clone)]
pub struct ServerFloods {
    pub budget: u32,
    pub told: Arc<dyn Fn(SocketAddr, Flood) + Send + Sync>,
}

impl Default for ServerFloods {
    fn default() -> ServerFloods {
        ServerFloods {
            budget: DEFAULT_BUDGET,
            told: Arc::new(
                |hop, flood| tracing::warn!(%hop, "an HBONE connection was ended: {flood}"),
            ),
        }
    }
}

impl std::fmt::Debug for ServerFloods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerFloods")
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(20),
            source: None,
            http2: Http2Options::default(),
            socket: SocketOptions::default(),
            floods: ServerFloods::default(),
        }
    }
}

type ClientIo = Wire<TlsStream<ReadAhead<TcpStream>>>;
type WatchedIo = FrameWatch<ClientIo>;

/// Opens a connection of its own, outside of any pool: for tools, tests and load generators.
pub async fn connect(
    tls: &Tls,
    hop: SocketAddr,
    options: &ClientOptions,
) -> Result<ClientConnection, ConnectError> {
    connect_owned(tls, hop, options, None).await
}

/// Opens a tunnel on a connection of its own.
pub async fn connect_once(
    tls: &Tls,
    hop: SocketAddr,
    authority: &str,
    headers: HeaderMap,
    options: &ClientOptions,
) -> Result<TunnelStream, ConnectError> {
    connect(tls, hop, options)
        .await?
        .open(authority, headers)
        .await
}

pub(crate) async fn connect_owned(
    tls: &Tls,
    hop: SocketAddr,
    options: &ClientOptions,
    owned: Option<Owned>,
) -> Result<ClientConnection, ConnectError> {
    let timeout = options.connect_timeout;
    match tokio::time::timeout(timeout, Box::pin(handshake(tls, hop, options, owned))).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout {
            hop,
            phase: "connection",
            timeout,
        }),
    }
}

async fn handshake(
    tls: &Tls,
    hop: SocketAddr,
    options: &ClientOptions,
    owned: Option<Owned>,
) -> Result<ClientConnection, ConnectError> {
    let configs = tls.configs();
    let active = configs.active.as_ref().ok_or(ConnectError::NoCertificate)?;
    let tcp = options
        .socket
        .connect(hop, options.source)
        .await
        .map_err(|error| ConnectError::Tcp {
            hop,
            error: Arc::new(error),
        })?;
    let local_addr = tcp.local_addr().map_err(|error| ConnectError::Tcp {
        hop,
        error: Arc::new(error),
    })?;

    let failed = |error: TlsFailure| ConnectError::Tls {
        hop,
        error: Arc::new(error),
    };
    // The name is neither sent (SNI is off) nor verified.
    let name = ServerName::IpAddress(hop.ip().into());
    let stream = TlsConnector::from(active.client.clone())
        .connect(name, ReadAhead::new(tcp))
        .await
        .map_err(|error| failed(TlsFailure::from_io(error)))?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(ALPN_H2) {
        return Err(failed(TlsFailure::Alpn));
    }
    let peer = peer_identity(session.peer_certificates()).map_err(|error| failed(error.into()))?;
    let standing = Standing::new(tls, &configs, PeerRole::Server);

    let wire = Wire::new(stream);
    let look = wire.observer(|tls, local| TlsSession::of(tls.get_ref().1, local));
    let info = TlsInfo::new(active.certificate.clone(), look);
    // Preface, SETTINGS and the first CONNECT leave together, at the end of the connection task's first turn.
    wire.defer();
    let (watched, flood) = FrameWatch::client(wire.clone(), options.floods.budget);
    let (send, mut connection) = options
        .http2
        .client()
        .handshake::<_, Bytes>(watched)
        .await
        .map_err(|error| ConnectError::Handshake {
            hop,
            error: Arc::new(io_error(error)),
        })?;
    let keepalive = KeepAlive::new(&options.http2, connection.ping_pong());
    let (owner, idle_timeout) = match owned {
        Some(owned) => (Some(owned.owner), Some(owned.idle_timeout)),
        None => (None, None),
    };
    let shared = Arc::new(Shared {
        hop,
        peer,
        local_addr,
        generation: configs.generation,
        tls: Arc::new(info),
        response_timeout: options.response_timeout,
        send: Mutex::new(send),
        active: AtomicUsize::new(0),
        retired: AtomicBool::new(false),
        last_used: Mutex::new(Instant::now()),
        owner,
        flood: flood.clone(),
    });
    let idle = idle_timeout.map(|timeout| Idle {
        timeout,
        timer: Box::pin(tokio::time::sleep(timeout)),
    });
    let driver = Driver {
        connection,
        wire,
        keepalive,
        idle,
        standing,
        hop,
        flood,
        told: options.floods.told.clone(),
        shared: Arc::downgrade(&shared),
    };
    tokio::spawn(driver.run());
    Ok(ClientConnection { shared })
}

impl ClientConnection {
    /// Opens a tunnel to `authority`.
    pub async fn open(
        &self,
        authority: &str,
        headers: HeaderMap,
    ) -> Result<TunnelStream, ConnectError> {
        self.open_leased(self.lease(), authority, &headers).await
    }

    pub(crate) async fn open_leased(
        &self,
        lease: Lease,
        authority: &str,
        headers: &HeaderMap,
    ) -> Result<TunnelStream, ConnectError> {
        let hop = self.shared.hop;
        let request = request(authority, headers)?;
        let mut send = self.shared.send.lock().clone();
        let (response, mut stream) = send
            .send_request(request, false)
            .map_err(|error| self.shared.failed(error))?;
        drop(send);
        let response = self.answer(response, &mut stream).await?;
        let (head, recv) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(ConnectError::Rejected {
                hop,
                status: head.status,
            });
        }
        Ok(TunnelStream::new(stream, recv).with_lease(lease, head.headers))
    }

    /// Waits for the answer to CONNECT.
    ///
    /// The server's limit may come to be known after the stream was asked for and before it is opened; h2 then keeps
    /// the stream until others end, however long that takes, and says so to nobody.
    async fn answer(
        &self,
        mut response: ResponseFuture,
        stream: &mut SendStream<Bytes>,
    ) -> Result<Response<RecvStream>, ConnectError> {
        let hop = self.shared.hop;
        let timeout = self.shared.response_timeout;
        let deadline = Instant::now() + timeout;
        let mut pause = OPEN_CHECK;
        loop {
            let until = deadline.min(Instant::now() + pause);
            match tokio::time::timeout_at(until, &mut response).await {
                Ok(answer) => {
                    return answer.map_err(|error| self.shared.failed(error));
                }
                Err(_) if self.active_streams() > self.max_streams() && !is_open(stream) => {
                    return Err(ConnectError::Full { hop });
                }
                Err(_) if Instant::now() >= deadline => {
                    return Err(ConnectError::Timeout {
                        hop,
                        phase: "answer to CONNECT",
                        timeout,
                    });
                }
                Err(_) => pause *= 2,
            }
        }
    }
}

/// After this time without an answer, and again after twice as long, a stream is looked at: it may not be open.
const OPEN_CHECK: Duration = Duration::from_millis(20);

/// Whether the CONNECT has left. h2 gives room to send to open streams alone; one whose peer's window is
/// exhausted looks like one that isn't open, and trying that elsewhere is no loss.
fn is_open(stream: &mut SendStream<Bytes>) -> bool {
    stream.reserve_capacity(1);
    let open = stream.capacity() > 0;
    stream.reserve_capacity(0);
    open
}

fn request(authority: &str, headers: &HeaderMap) -> Result<Request<()>, ConnectError> {
    let invalid = || ConnectError::Authority(authority.chars().take(256).collect());
    let authority: Authority = authority.parse().map_err(|_| invalid())?;
    let mut parts = http::uri::Parts::default();
    parts.authority = Some(authority);
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| invalid())?;
    *request.headers_mut() = headers.clone();
    Ok(request)
}

struct Idle {
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
}

/// The connection's task: TLS and framing.
struct Driver {
    connection: h2::client::Connection<WatchedIo, Bytes>,
    wire: ClientIo,
    keepalive: Option<KeepAlive>,
    idle: Option<Idle>,
    standing: Standing,
    hop: SocketAddr,
    flood: FloodMark,
    told: Arc<dyn Fn(SocketAddr, Flood) + Send + Sync>,
    /// Weak: when pool and streams have let go of the connection, h2 ends it.
    shared: Weak<Shared>,
}

impl Driver {
    async fn run(mut self) {
        let result = poll_fn(|cx| self.poll(cx)).await;
        if let Err(error) = result {
            tracing::debug!(%error, "HBONE connection ended");
        }
        self.let_go();
    }

    /// No more streams; the pool forgets the connection, which ends with its last stream.
    fn let_go(&self) {
        if let Some(shared) = self.shared.upgrade() {
            let connection = ClientConnection { shared };
            connection.retire();
            if let Some(owner) = connection.shared.owner.as_ref().and_then(Weak::upgrade) {
                owner.retire(&connection);
            }
        }
    }

    fn poll_standing(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let wire = &self.wire;
            let chain =
                || wire.inspect(|tls| tls.get_ref().1.peer_certificates().map(<[_]>::to_vec));
            match self.standing.poll(cx, chain) {
                Step::Stay => return Poll::Pending,
                Step::Leave => self.let_go(),
                Step::End(reason) => {
                    let peer = self.shared.upgrade().map(|shared| shared.peer.clone());
                    tracing::warn!(?peer, %reason, "HBONE connection to a peer that isn't trusted any more ended");
                    return Poll::Ready(io::Error::other(reason));
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_standing(cx) {
            return Poll::Ready(Err(error));
        }
        if let Some(keepalive) = &mut self.keepalive
            && keepalive
                .poll_dead(cx, || self.wire.take_received())
                .is_ready()
        {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer to PING",
            )));
        }
        self.poll_idle(cx);
        if let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx) {
            if let Some(flood) = self.flood.get() {
                (self.told)(self.hop, flood);
                // The GOAWAY, if the server takes it at once.
                let _ = self.wire.poll_drain(cx);
            }
            return Poll::Ready(result.map_err(io_error));
        }
        match self.wire.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Pending,
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) {
        let Some(idle) = &mut self.idle else {
            return;
        };
        while idle.timer.as_mut().poll(cx).is_ready() {
            let Some(shared) = self.shared.upgrade() else {
                self.idle = None;
                return;
            };
            let since = if shared.active.load(Ordering::Acquire) > 0 {
                Instant::now()
            } else {
                *shared.last_used.lock()
            };
            let due = since + idle.timeout;
            let owner = shared.owner.as_ref().and_then(Weak::upgrade);
            if due <= Instant::now()
                && owner.is_some_and(|owner| owner.retire(&ClientConnection { shared }))
            {
                // The pool has let go of it; when our own handle goes, h2 says GOAWAY and ends.
                self.idle = None;
                return;
            }
            idle.timer
                .as_mut()
                .reset(due.max(Instant::now() + Duration::from_millis(100)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_has_an_authority_and_nothing_else() {
        let request = request("[2001:db8::1]:80", &HeaderMap::new()).unwrap();
        assert_eq!(request.uri().authority().unwrap(), "[2001:db8::1]:80");
        assert_eq!(
            (request.uri().scheme(), request.uri().path_and_query()),
            (None, None)
        );
        assert!(matches!(
            super::request("a b", &HeaderMap::new()),
            Err(ConnectError::Authority(_))
        ));
    }

    #[test]
    fn retries_are_for_what_may_pass() {
        let hop = "192.0.2.1:15008".parse().unwrap();
        let rejected = |status| ConnectError::Rejected { hop, status };
        assert!(rejected(StatusCode::SERVICE_UNAVAILABLE).retry_safe());
        assert!(!rejected(StatusCode::UNAUTHORIZED).retry_safe());
        assert!(!ConnectError::NoCertificate.retry_safe());
        let error = Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(ConnectError::Tcp { hop, error }.retry_safe());
    }
}
