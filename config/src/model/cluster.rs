//! Clusters, and the slots through which routes refer to them.
//!
//! A slot may be *missing*: configuration may name a cluster that does not exist (yet). Its requests are
//! answered 503, or what the route says.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use waypoint_filters::dynamic_metadata::Metadata;
use waypoint_filters::stream_info::DestinationService;

use crate::model::endpoint::EndpointSet;

/// A named place for a cluster and its endpoints, which change apart from each other.
pub struct ClusterSlot {
    pub name: Arc<str>,
    cluster: ArcSwapOption<Cluster>,
    endpoints: ArcSwap<EndpointSet>,
}

impl ClusterSlot {
    /// A slot without a cluster.
    pub fn missing(name: impl Into<Arc<str>>) -> ClusterSlot {
        ClusterSlot {
            name: name.into(),
            cluster: ArcSwapOption::empty(),
            endpoints: ArcSwap::from_pointee(EndpointSet::default()),
        }
    }

    /// `None`: there is no such cluster.
    pub fn cluster(&self) -> Option<Arc<Cluster>> {
        self.cluster.load_full()
    }

    /// A cheap borrow of the endpoints, not to be held over an await.
    pub fn endpoints(&self) -> arc_swap::Guard<Arc<EndpointSet>> {
        self.endpoints.load()
    }

    pub fn set_cluster(&self, cluster: Option<Arc<Cluster>>) {
        self.cluster.store(cluster);
    }

    pub fn set_endpoints(&self, endpoints: Arc<EndpointSet>) {
        self.endpoints.store(endpoints);
    }
}

/// A compiled `Cluster`.
#[derive(Debug)]
pub struct Cluster {
    pub name: Arc<str>,
    pub discovery: Discovery,
    pub lb_policy: LbPolicy,
    pub connect_timeout: Duration,
    pub protocol: UpstreamProtocol,
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub circuit_breakers: CircuitBreakers,
    pub metadata: Metadata,
    /// `istio.services[0]` of the metadata.
    pub service: Option<Arc<DestinationService>>,
    /// Percent of healthy endpoints below which all are used; istiod sends 0: never.
    pub healthy_panic_threshold: f64,
    pub tcp_keepalive: Option<TcpKeepalive>,
}

/// Where the endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// From EDS, under this name.
    Eds { service_name: Arc<str> },
    /// Listed in the cluster itself.
    Static,
    /// The connection's own destination; `encap` and headless services.
    OriginalDst { port_override: Option<u16> },
    /// `encap`: the stream's own destination, carried there by HBONE.
    OriginalDstOverHbone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LbPolicy {
    RoundRobin,
    /// `choice_count` random endpoints are compared (Envoy: 2).
    LeastRequest { choice_count: u32 },
    Random,
    /// The discovery type decides.
    ClusterProvided,
}

/// HTTP spoken to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    Http1,
    Http2,
    /// What the client spoke.
    Downstream,
}

/// Limits of the one threshold that istiod sends; `u32::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreakers {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}
