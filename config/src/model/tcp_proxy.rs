//! TCP filter chains: network filters, then `tcp_proxy` to one cluster or several by weight.

use std::sync::Arc;
use std::time::Duration;

use waypoint_filters::network::NetworkFilter;
use waypoint_filters::recorder::Recorder;
use waypoint_filters::stream_info::Capture;

use crate::model::cluster::ClusterSlot;

/// A chain that carries bytes.
pub struct TcpChain {
    pub filters: Box<[Box<dyn NetworkFilter>]>,
    pub recorders: Box<[Arc<dyn Recorder>]>,
    pub capture: Capture,
    pub proxy: TcpProxy,
    /// How often open streams report their bytes (`tcp_reporting_duration`).
    pub reporting_interval: Duration,
}

/// A compiled `envoy.filters.network.tcp_proxy`.
pub struct TcpProxy {
    pub stat_prefix: Arc<str>,
    /// Weighted destinations; one for a plain cluster. Weights add up to more than 0.
    pub clusters: Box<[(u32, Arc<ClusterSlot>)]>,
    /// `None`: no limit. Envoy's default is one hour.
    pub idle_timeout: Option<Duration>,
    pub max_connect_attempts: u32,
    pub max_downstream_connection_duration: Option<Duration>,
    pub hash_source_ip: bool,
}
