//! The places of clusters, through which routes refer to them.
//!
//! A slot may be *missing*: configuration may name a cluster that does not exist (yet). Its requests are
//! answered 503, or what the route says.

use std::any::Any;
use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use waypoint_filters::callout::CalloutCluster;
use waypoint_filters::metrics::Counter;

use crate::model::active_health::CheckCounts;
use crate::model::balance::endpoint_set::EndpointSet;
use crate::model::cluster::Cluster;
use crate::model::cluster::circuit_breakers::InUse;
use crate::model::outlier::Outliers;

/// A named place for a cluster and its endpoints, which change apart from each other.
pub struct ClusterSlot {
    pub name: Arc<str>,
    cluster: ArcSwapOption<Cluster>,
    endpoints: ArcSwap<EndpointSet>,
    /// What the cluster's limits count.
    pub in_use: Arc<InUse>,
    /// What came of its endpoints' signs.
    pub outliers: Arc<Outliers>,
    /// What came of checks.
    pub checks: CheckCounts,
    /// Callouts to it that are under way.
    pub callouts: AtomicUsize,
    /// Counts those that were answered, looked up once.
    pub answered_callouts: OnceLock<Counter>,
    /// The data path's own: hosts that streams named, where the cluster leads to such.
    pub hosts: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl ClusterSlot {
    /// A slot without a cluster.
    pub fn missing(name: impl Into<Arc<str>>) -> ClusterSlot {
        ClusterSlot {
            name: name.into(),
            cluster: ArcSwapOption::empty(),
            endpoints: ArcSwap::from_pointee(EndpointSet::default()),
            in_use: Arc::default(),
            outliers: Arc::default(),
            checks: CheckCounts::default(),
            callouts: AtomicUsize::new(0),
            answered_callouts: OnceLock::new(),
            hosts: OnceLock::new(),
        }
    }

    /// The slot that a callout is for, if it is one of ours.
    pub fn of(callout: &dyn CalloutCluster) -> Option<&ClusterSlot> {
        let any: &dyn Any = callout;
        any.downcast_ref()
    }

    /// As [`of`](ClusterSlot::of), to be kept.
    pub fn shared(callout: Arc<dyn CalloutCluster>) -> Option<Arc<ClusterSlot>> {
        let any: Arc<dyn Any + Send + Sync> = callout;
        any.downcast().ok()
    }

    /// `None`: there is no such cluster.
    pub fn cluster(&self) -> Option<Arc<Cluster>> {
        self.cluster.load_full()
    }

    /// A cheap borrow of the endpoints, not to be held over an await.
    pub fn endpoints(&self) -> arc_swap::Guard<Arc<EndpointSet>> {
        self.endpoints.load()
    }

    /// The endpoints, to be held as long as one likes.
    pub fn endpoints_now(&self) -> Arc<EndpointSet> {
        self.endpoints.load_full()
    }

    /// Tables are there before anybody looks a hash up in them, and who is to be checked first isn't used before.
    pub fn set_cluster(&self, cluster: Option<Arc<Cluster>>) {
        let before = self.cluster.load();
        let endpoints = self.endpoints.load();
        let mut again = match &cluster {
            Some(now) => expect_checks(now, &endpoints, before.is_some()),
            None => false,
        };
        if let Some(now) = &cluster {
            let balancing = before.as_ref().map(|c| c.balancing);
            again |= now.balancing.policy.hashes() && balancing != Some(now.balancing);
            if again {
                let endpoints = endpoints.again().prepared(&now.balancing);
                self.endpoints.store(Arc::new(endpoints));
            }
        }
        self.cluster.store(cluster);
    }

    /// Takes the endpoints that there are now.
    pub fn set_endpoints(&self, endpoints: EndpointSet) {
        let cluster = self.cluster.load();
        let Some(cluster) = &*cluster else {
            self.endpoints.store(Arc::new(endpoints));
            return;
        };
        for endpoint in endpoints.iter() {
            endpoint.state.health.set_leaving(false);
        }
        let endpoints = match cluster.keeps_those_that_pass() {
            true => endpoints.keeping_those_that_pass(&self.endpoints.load()),
            false => endpoints,
        };
        expect_checks(cluster, &endpoints, false);
        self.endpoints
            .store(Arc::new(endpoints.prepared(&cluster.balancing)));
    }

    /// Shares load anew among the endpoints, whose health changed.
    pub(crate) fn share_anew(&self) {
        let endpoints = self.endpoints.load().without_those_that_left();
        let endpoints = match &*self.cluster.load() {
            Some(cluster) => endpoints.prepared(&cluster.balancing),
            None => endpoints,
        };
        self.endpoints.store(Arc::new(endpoints));
    }
}

/// Has endpoints wait for their first check, or for none. `trusted`: they were in use before. Says whether that changed who may be
/// used.
fn expect_checks(cluster: &Cluster, endpoints: &EndpointSet, trusted: bool) -> bool {
    let mut changed = false;
    for endpoint in endpoints.iter() {
        let health = &endpoint.state.health;
        changed |= match cluster.health_check.is_some() && endpoint.is_checked() {
            true => health.expect(trusted),
            false => health.forget(),
        };
    }
    changed
}

impl CalloutCluster for ClusterSlot {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl fmt::Debug for ClusterSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterSlot").field(&self.name).finish()
    }
}
