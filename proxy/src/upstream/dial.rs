//! Making a connection to an endpoint: TCP to its address, or a CONNECT to the ztunnel before it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use tokio::net::{TcpSocket, TcpStream};
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::endpoint::{Endpoint, Transport};
use waypoint_filters::stream::serial_id::SerialId;
use waypoint_filters::stream::stream_info::UpstreamInfo;
use waypoint_filters::stream::upstream_times::ConnectionTimes;
use waypoint_hbone::pool::TunnelPool;

use crate::overload::Overload;
use crate::process::open_files::OpenFiles;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::io::{Kind, UpstreamIo};
use crate::upstream::open::OpenConnections;

/// A new connection, and what telemetry says of it.
pub(crate) struct Dialled {
    pub(crate) io: UpstreamIo,
    pub(crate) info: Arc<UpstreamInfo>,
}

/// What dialling needs of the process.
pub(crate) struct Connector {
    pub(crate) tunnels: TunnelPool,
    pub(crate) files: Arc<OpenFiles>,
    pub(crate) overload: Arc<Overload>,
    /// How many connections there are, to any endpoint.
    pub(crate) open: Arc<OpenConnections>,
}

impl Connector {
    /// Connects to `endpoint` within the cluster's connect timeout.
    pub(crate) async fn connect(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
    ) -> Result<Dialled, UpstreamError> {
        let connecting = self.dial(cluster, endpoint);
        match tokio::time::timeout(cluster.connect_timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(UpstreamError::new(UpstreamErrorKind::ConnectTimeout)),
        }
    }

    async fn dial(&self, cluster: &Cluster, endpoint: &Endpoint) -> Result<Dialled, UpstreamError> {
        let Some(open) = self.open.take(&cluster.name) else {
            return Err(UpstreamError::new(UpstreamErrorKind::Overflow));
        };
        let begin = Instant::now();
        let (kind, local) = match endpoint.transport {
            Transport::Plain => {
                let tcp = self
                    .files
                    .connect(|| tcp_connect(endpoint.address, self.overload.is_short()))
                    .await
                    .map_err(|error| connect_error(&error))?;
                let _ = tcp.set_nodelay(true);
                if let Some(keepalive) = &cluster.tcp_keepalive {
                    set_keepalive(&tcp, keepalive);
                }
                let local = tcp.local_addr().ok();
                (Kind::Tcp(tcp), local)
            }
            Transport::Hbone { hop } => {
                let authority = endpoint.address.to_string();
                let (tunnels, files) = (&self.tunnels, &self.files);
                let mut tunnel = tunnels.connect(hop, &authority, HeaderMap::new()).await;
                if let Err(error) = &tunnel
                    && files.relieve_after(error)
                {
                    tunnel = tunnels.connect(hop, &authority, HeaderMap::new()).await;
                }
                let tunnel = tunnel.map_err(|error| {
                    UpstreamError::new(UpstreamErrorKind::Connect).because(error)
                })?;
                (Kind::Tunnel(Box::new(tunnel)), None)
            }
        };
        let tls = match &kind {
            Kind::Tcp(_) => None,
            Kind::Tunnel(tunnel) => tunnel.tls().cloned(),
        };
        let info = UpstreamInfo {
            id: SerialId::default(),
            cluster: cluster.name.clone(),
            service: cluster.service.clone(),
            host: endpoint.address,
            local,
            times: ConnectionTimes {
                begin,
                end: Instant::now(),
            },
            tls,
            principal: endpoint
                .peer
                .as_ref()
                .map(|peer| peer.principal.clone())
                .filter(|p| !p.is_empty()),
            peer: endpoint.peer.clone(),
            cluster_metadata: cluster.metadata.clone(),
            endpoint_metadata: endpoint.metadata.clone(),
        };
        Ok(Dialled {
            io: UpstreamIo::new(kind, open),
            info: Arc::new(info),
        })
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

fn set_keepalive(tcp: &TcpStream, settings: &waypoint_config::model::cluster::TcpKeepalive) {
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
