//! Making a connection to an endpoint: TCP to its address, or a CONNECT to the ztunnel before it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use tokio::net::TcpStream;
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::endpoint::{Endpoint, Transport};
use waypoint_filters::serial_id::SerialId;
use waypoint_filters::stream_info::UpstreamInfo;
use waypoint_hbone::pool::TunnelPool;

use crate::process::open_files::OpenFiles;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::io::{Kind, UpstreamIo};

/// A new connection, and what telemetry says of it.
pub(crate) struct Dialled {
    pub(crate) io: UpstreamIo,
    pub(crate) info: Arc<UpstreamInfo>,
}

/// Connects to `endpoint` within the cluster's connect timeout.
pub(crate) async fn dial(
    tunnels: &TunnelPool,
    files: &OpenFiles,
    cluster: &Cluster,
    endpoint: &Endpoint,
) -> Result<Dialled, UpstreamError> {
    let connecting = connect(tunnels, files, cluster, endpoint);
    match tokio::time::timeout(cluster.connect_timeout, connecting).await {
        Ok(result) => result,
        Err(_) => Err(UpstreamError::new(UpstreamErrorKind::ConnectTimeout)),
    }
}

async fn connect(
    tunnels: &TunnelPool,
    files: &OpenFiles,
    cluster: &Cluster,
    endpoint: &Endpoint,
) -> Result<Dialled, UpstreamError> {
    let (kind, local) = match endpoint.transport {
        Transport::Plain => {
            let tcp = files
                .connect(endpoint.address)
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
            let mut tunnel = tunnels.connect(hop, &authority, HeaderMap::new()).await;
            if let Err(error) = &tunnel
                && files.relieve_after(error)
            {
                tunnel = tunnels.connect(hop, &authority, HeaderMap::new()).await;
            }
            let tunnel = tunnel
                .map_err(|error| UpstreamError::new(UpstreamErrorKind::Connect).because(error))?;
            (Kind::Tunnel(Box::new(tunnel)), None)
        }
    };
    let info = UpstreamInfo {
        id: SerialId::default(),
        cluster: cluster.name.clone(),
        service: cluster.service.clone(),
        host: endpoint.address,
        local,
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
        io: UpstreamIo::new(kind),
        info: Arc::new(info),
    })
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
    SocketAddr::new(address.ip(), HBONE_PORT)
}

/// Where ztunnels and waypoints take tunnels.
pub(crate) const HBONE_PORT: u16 = 15008;
