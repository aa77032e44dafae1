//! Active checks: each endpoint of a cluster that has some is asked for its health, at intervals, by a task of its own.
//!
//! A check goes the way that the cluster's traffic goes (plain, TLS, through a tunnel), on connections that carry nothing else and
//! count against no limit of the cluster. Tasks run where traffic runs; how many checks are under way at a time is bounded. A task
//! ends with its endpoint, or with the cluster's checks, and knows nothing by itself: what checks came to is the endpoint's
//! (`active_health`), so that one that begins anew goes on where the last one was.

mod check;
mod client;
mod grpc;
mod http;
mod request;
mod rounds;
mod tcp;

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use waypoint_config::model::balance::endpoint_set::EndpointSet;
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::endpoint::{Endpoint, EndpointState};
use waypoint_filters::stream::connection::Connection;
use waypoint_filters::stream::session::SessionHost;

use crate::upstream::health::check::Shared;
use crate::upstream::health::rounds::Rounds;
use crate::upstream::reach::Reach;

/// Checks under way at a time; the others wait for their turn, and their time doesn't run.
const MAX_ACTIVE: usize = 256;

/// Keeps a task for each endpoint that is to be checked. Dropped, it ends them all.
pub(crate) struct HealthChecks {
    shared: Arc<Shared>,
    /// Where traffic runs.
    data: Handle,
    clusters: HashMap<Arc<str>, OfCluster>,
}

/// The tasks of one cluster, as it was when they were looked at last.
struct OfCluster {
    cluster: Arc<Cluster>,
    endpoints: Arc<EndpointSet>,
    tasks: HashMap<SessionHost, Task>,
}

/// One endpoint's.
struct Task {
    /// Whose it is: one that went and came again is another.
    state: Weak<EndpointState>,
    handle: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl HealthChecks {
    pub(crate) fn new(reach: &Reach, data: Handle) -> HealthChecks {
        let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        HealthChecks {
            shared: Arc::new(Shared {
                upstreams: reach.upstreams.clone(),
                turns: Semaphore::new(MAX_ACTIVE),
                suspects: reach.suspects.clone(),
                connection: Arc::new(Connection::new(nowhere, nowhere, Instant::now())),
            }),
            data,
            clusters: HashMap::new(),
        }
    }

    /// Checks the endpoints of these clusters, and of no others, from now on. Costs little for those that didn't change.
    pub(crate) fn follow(&mut self, slots: &[Arc<ClusterSlot>]) {
        let names: HashSet<&Arc<str>> = slots.iter().map(|slot| &slot.name).collect();
        self.clusters.retain(|name, _| names.contains(name));
        for slot in slots {
            if let Some(cluster) = slot.cluster() {
                self.follow_one(slot, cluster);
            }
        }
    }

    fn follow_one(&mut self, slot: &Arc<ClusterSlot>, cluster: Arc<Cluster>) {
        let endpoints = slot.endpoints_now();
        let before = self.clusters.remove(&slot.name);
        let mut tasks = match before {
            Some(before)
                if Arc::ptr_eq(&before.cluster, &cluster)
                    && Arc::ptr_eq(&before.endpoints, &endpoints) =>
            {
                self.clusters.insert(slot.name.clone(), before);
                return;
            }
            // Other rules begin anew, as with Envoy.
            Some(before) if before.cluster.health_check == cluster.health_check => before.tasks,
            _ => HashMap::new(),
        };
        let checked = endpoints.iter().filter(|endpoint| is_checked(endpoint));
        let mut kept = HashMap::new();
        for endpoint in checked {
            let host = endpoint.session_host();
            let state = Arc::downgrade(&endpoint.state);
            let running = tasks.remove(&host);
            let running = running.filter(|task| task.state.ptr_eq(&state));
            let task = running.unwrap_or_else(|| self.begin(slot, host, state));
            kept.insert(host, task);
        }
        let of_cluster = OfCluster {
            cluster,
            endpoints,
            tasks: kept,
        };
        self.clusters.insert(slot.name.clone(), of_cluster);
    }

    fn begin(
        &self,
        slot: &Arc<ClusterSlot>,
        host: SessionHost,
        state: Weak<EndpointState>,
    ) -> Task {
        let rounds = Rounds::new(self.shared.clone(), slot.clone(), host, state.clone());
        let handle = self.data.spawn(rounds.run()).abort_handle();
        Task { state, handle }
    }
}

fn is_checked(endpoint: &Endpoint) -> bool {
    !endpoint.check.as_ref().is_some_and(|check| check.disabled)
}
