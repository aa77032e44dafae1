//! Making a connection to an endpoint: TCP to its address, or a CONNECT to the ztunnel before it; and in that what its transport socket
//! adds, the PROXY protocol and TLS.

pub(crate) mod carrier;
pub(crate) mod client_tls;
mod happy_eyeballs;
pub(crate) mod leg;
pub(crate) mod upload;
pub(crate) mod upstream_io;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::transport_socket::Socket;
use waypoint_config::model::cluster::upstream_tls::UpstreamTls;
use waypoint_config::model::endpoint::{Endpoint, Transport};
use waypoint_filters::stream::serial_id::SerialId;
use waypoint_filters::stream::stream_info::UpstreamInfo;
use waypoint_filters::stream::upstream_times::ConnectionTimes;
use waypoint_hbone::io::read_ahead::ReadAhead;
use waypoint_hbone::pool::TunnelPool;
use waypoint_hbone::tls::tls_info::TlsInfo;
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::overload::Overload;
use crate::process::open_files::OpenFiles;
use crate::upstream::dial::carrier::Carrier;
use crate::upstream::dial::client_tls::ClientTls;
use crate::upstream::dial::happy_eyeballs::connect_first;
use crate::upstream::dial::leg::{Leg, Speaks, proxy_header};
use crate::upstream::dial::upstream_io::{Kind, UpstreamIo};
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::limits::open::{Open, OpenConnections};

/// A new connection, and what telemetry says of it.
pub(crate) struct Dialled {
    pub(crate) io: UpstreamIo,
    pub(crate) info: Arc<UpstreamInfo>,
    /// The TLS that is spoken, as its cluster had it.
    pub(crate) tls: Option<Arc<UpstreamTls>>,
    /// Whether HTTP/2 was agreed on.
    pub(crate) agreed_http2: bool,
}

/// What dialling needs of the process.
pub(crate) struct Connector {
    pub(crate) tunnels: TunnelPool,
    pub(crate) files: Arc<OpenFiles>,
    pub(crate) overload: Arc<Overload>,
    /// How many connections there are, to any endpoint.
    pub(crate) open: Arc<OpenConnections>,
    pub(crate) tls: ClientTls,
}

/// What is known of an upstream that there is no connection to.
pub(crate) fn not_connected(cluster: &Cluster, endpoint: &Endpoint) -> UpstreamInfo {
    let principal = endpoint.peer.as_ref().map(|peer| peer.principal.clone());
    UpstreamInfo {
        id: SerialId::default(),
        cluster: cluster.name.clone(),
        service: cluster.service.clone(),
        host: endpoint.address,
        local: None,
        times: None,
        tls: None,
        principal: principal.filter(|name| !name.is_empty()),
        peer: endpoint.peer.clone(),
        cluster_metadata: cluster.metadata.clone(),
        endpoint_metadata: endpoint.metadata.clone(),
    }
}

impl Connector {
    /// Connects to `endpoint` within the cluster's connect timeout, which TLS's handshake is a part of.
    pub(crate) async fn connect(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        leg: &Leg,
        speaks: Speaks,
    ) -> Result<Dialled, UpstreamError> {
        let Some(open) = self.open.take(&cluster.name) else {
            return Err(UpstreamError::new(UpstreamErrorKind::Overflow));
        };
        let connecting = self.dial(cluster, endpoint, leg, speaks, open);
        match tokio::time::timeout(cluster.connect_timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(UpstreamError::new(UpstreamErrorKind::ConnectTimeout)),
        }
    }

    /// Connects to `endpoint` in the cluster's way, for a check: it carries no traffic, and who checks says how long it may take.
    pub(crate) async fn connect_to_check(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        leg: &Leg,
        speaks: Speaks,
    ) -> Result<Dialled, UpstreamError> {
        let Some(open) = self.open.take_for_check() else {
            return Err(UpstreamError::new(UpstreamErrorKind::Overflow));
        };
        self.dial(cluster, endpoint, leg, speaks, open).await
    }

    async fn dial(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        leg: &Leg,
        speaks: Speaks,
        open: Open,
    ) -> Result<Dialled, UpstreamError> {
        let begin = Instant::now();
        let (kind, local) = match endpoint.transport {
            Transport::Plain => {
                let tcp = self.tcp(cluster, endpoint).await?;
                let local = tcp.local_addr().ok();
                (Kind::Tcp(tcp), local)
            }
            Transport::Hbone { hop } => {
                let tunnel = self.tunnel(endpoint, hop).await?;
                (Kind::Tunnel(Box::new(tunnel)), None)
            }
        };
        let socket = cluster.sockets.of(&endpoint.metadata);
        let through = match socket.tls.is_some() || socket.proxy_protocol.is_some() {
            false => Through::carrier(kind),
            // Large, and of few connections.
            true => Box::pin(self.through(cluster, endpoint, kind, socket, leg, speaks)).await?,
        };
        let info = UpstreamInfo {
            local,
            times: Some(ConnectionTimes {
                begin,
                end: Instant::now(),
            }),
            tls: through.info,
            ..not_connected(cluster, endpoint)
        };
        Ok(Dialled {
            io: UpstreamIo::new(through.kind, open),
            info: Arc::new(info),
            tls: socket.tls.clone(),
            agreed_http2: through.agreed_http2,
        })
    }

    async fn tcp(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
    ) -> Result<TcpStream, UpstreamError> {
        let tcp = self
            .files
            .connect(|| {
                let short = self.overload.is_short();
                let connect = move |address| tcp_connect(address, short);
                connect_first(endpoint.address, &endpoint.additional, connect)
            })
            .await
            .map_err(|error| connect_error(&error))?;
        let _ = tcp.set_nodelay(true);
        if let Some(keepalive) = &cluster.tcp_keepalive {
            set_keepalive(&tcp, keepalive);
        }
        Ok(tcp)
    }

    async fn tunnel(
        &self,
        endpoint: &Endpoint,
        hop: SocketAddr,
    ) -> Result<TunnelStream, UpstreamError> {
        let authority = endpoint.address.to_string();
        let (tunnels, files) = (&self.tunnels, &self.files);
        let mut tunnel = tunnels.connect(hop, &authority, HeaderMap::new()).await;
        if let Err(error) = &tunnel
            && files.relieve_after(error)
        {
            tunnel = tunnels.connect(hop, &authority, HeaderMap::new()).await;
        }
        tunnel.map_err(|error| UpstreamError::new(UpstreamErrorKind::Connect).because(error))
    }

    /// Says and does what comes before what is spoken.
    async fn through(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        kind: Kind,
        socket: &Socket,
        leg: &Leg,
        speaks: Speaks,
    ) -> Result<Through, UpstreamError> {
        let failed =
            |reason: String| UpstreamError::new(UpstreamErrorKind::Connect).because(reason);
        let mut carrier = match kind {
            Kind::Tcp(tcp) => Carrier::Tcp(ReadAhead::at_need(tcp, true)),
            Kind::Tunnel(tunnel) => Carrier::Tunnel(tunnel),
            Kind::Tls(_) => return Err(failed("TLS in TLS".to_owned())),
        };
        if let Some(version) = socket.proxy_protocol {
            let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
            let head = proxy_header(version, leg.client.unwrap_or((nowhere, nowhere)));
            let said = carrier.write_all(&head).await;
            said.map_err(|error| failed(error.to_string()))?;
        }
        let Some(tls) = &socket.tls else {
            return Ok(Through::carrier(match carrier {
                Carrier::Tcp(tcp) => Kind::Tcp(tcp.into_inner()),
                Carrier::Tunnel(tunnel) => Kind::Tunnel(tunnel),
            }));
        };
        let server = leg.server(cluster, tls, speaks);
        let (stream, info) = self
            .tls
            .connect(tls, carrier, endpoint.address, server)
            .await
            .map_err(failed)?;
        Ok(Through {
            agreed_http2: stream.alpn() == Some(b"h2"),
            info: Some(Arc::new(info)),
            kind: Kind::Tls(stream),
        })
    }
}

/// A connection that is ready to be spoken on.
struct Through {
    kind: Kind,
    info: Option<Arc<TlsInfo>>,
    agreed_http2: bool,
}

impl Through {
    fn carrier(kind: Kind) -> Through {
        let info = match &kind {
            Kind::Tunnel(tunnel) => tunnel.tls().cloned(),
            Kind::Tcp(_) | Kind::Tls(_) => None,
        };
        Through {
            kind,
            info,
            agreed_http2: false,
        }
    }
}

/// What the kernel may hold that isn't on its way yet: an endpoint that reads nothing would have it keep megabytes, which
/// count against the pod's memory. What is on its way is the endpoint's window, and grows with the link.
const UNSENT: u32 = 128 * 1024;
/// What the kernel may hold that we didn't read yet, while memory is short; else it follows the link.
const SHORT_RECEIVE: usize = 64 * 1024;

async fn tcp_connect(address: SocketAddr, short: bool) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Both before it connects: the window is agreed on then. Without them it works as well.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
    if short {
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(SHORT_RECEIVE);
    }
    socket.connect(address).await
}

fn connect_error(error: &io::Error) -> UpstreamError {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused => "delayed connect error: Connection refused".to_owned(),
        _ => format!("immediate connect error: {error}"),
    };
    UpstreamError::new(UpstreamErrorKind::Connect).because(reason)
}

fn set_keepalive(
    tcp: &TcpStream,
    settings: &waypoint_config::model::cluster::tcp_keepalive::TcpKeepalive,
) {
    let mut keepalive = socket2::TcpKeepalive::new();
    if let Some(time) = settings.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = settings.interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = settings.probes {
        keepalive = keepalive.with_retries(probes);
    }
    let _ = socket2::SockRef::from(tcp).set_tcp_keepalive(&keepalive);
}

/// The endpoint behind an address that configuration doesn't list.
pub(crate) fn hop_of(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), waypoint_hbone::PORT)
}
