//! Endpoints: where a cluster's streams may go, and what the data path keeps for each.
//!
//! An endpoint whose address and transport stay the same keeps its `Arc` across updates, and with it its
//! load and its connection pools.

use std::any::Any;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use waypoint_filters::dynamic_metadata::Metadata;
use waypoint_filters::peer::Peer;

/// The endpoints of a cluster, by priority.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Priority 0 first. Within one, localities in the order given.
    pub priorities: Vec<Vec<Locality>>,
    hosts: OnceLock<Box<[PriorityHosts]>>,
}

/// The endpoints of one priority, as a balancer looks at them.
#[derive(Debug, Default)]
pub struct PriorityHosts {
    pub all: Vec<Arc<Endpoint>>,
    pub healthy: Vec<Arc<Endpoint>>,
    /// Whether the healthy ones all have the same weight.
    pub equal_weights: bool,
}

/// Endpoints of one place.
#[derive(Debug, Default)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub sub_zone: Arc<str>,
    pub weight: Option<u32>,
    pub endpoints: Vec<Arc<Endpoint>>,
}

impl EndpointSet {
    pub fn new(priorities: Vec<Vec<Locality>>) -> EndpointSet {
        EndpointSet {
            priorities,
            hosts: OnceLock::new(),
        }
    }

    /// By priority, flattened over localities; made on first use.
    pub fn hosts(&self) -> &[PriorityHosts] {
        self.hosts.get_or_init(|| {
            self.priorities
                .iter()
                .map(|localities| PriorityHosts::new(localities))
                .collect()
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.priorities.iter().flatten().flat_map(|l| &l.endpoints)
    }
}

impl PriorityHosts {
    fn new(localities: &[Locality]) -> PriorityHosts {
        let all: Vec<_> = localities
            .iter()
            .flat_map(|l| l.endpoints.iter().cloned())
            .collect();
        let healthy: Vec<_> = all.iter().filter(|e| e.healthy).cloned().collect();
        let equal_weights = healthy.windows(2).all(|w| match w {
            [a, b] => a.weight == b.weight,
            _ => true,
        });
        PriorityHosts {
            all,
            healthy,
            equal_weights,
        }
    }
}

/// One endpoint.
pub struct Endpoint {
    /// The workload's own address and port, also behind HBONE.
    pub address: SocketAddr,
    pub transport: Transport,
    pub healthy: bool,
    pub weight: u32,
    pub metadata: Metadata,
    /// From the `istio.workload` metadata, or the workload data by address.
    pub peer: Option<Arc<Peer>>,
    pub state: Arc<EndpointState>,
}

/// What lives as long as the endpoint does, whatever updates say of its weight, health or metadata.
#[derive(Default)]
pub struct EndpointState {
    /// Requests and TCP streams in flight.
    pub active: AtomicU32,
    /// The data path's own: connection pools. Dropped, and with it closed, when the endpoint goes.
    pub pools: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// How an endpoint is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP to its address.
    Plain,
    /// A CONNECT for its address to the ztunnel there (`hop`, port 15008).
    Hbone { hop: SocketAddr },
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .field("transport", &self.transport)
            .field("healthy", &self.healthy)
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointState")
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}
