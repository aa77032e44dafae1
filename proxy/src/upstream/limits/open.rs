//! How many connections to endpoints there are: in all, and by cluster; and how many requests wait for one.
//!
//! Each holds memory here and in the kernel, whoever is stalled at its other end. What a DestinationRule limits comes first and
//! is counted apart ([`limits`](crate::upstream::limits)). One cluster has at most a part of all, so that its endpoints,
//! when they stall, leave room for those of others.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Clusters that nothing is open to are forgotten when there are more.
const MANY: usize = 16 * 1024;

/// The count of them.
pub(crate) struct OpenConnections {
    most: usize,
    most_per_cluster: usize,
    /// Taken for a moment when a connection is made or ends, which costs many times that.
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    /// Those that anything was asked of.
    clusters: HashMap<Arc<str>, OfCluster>,
}

/// What is known of a cluster's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OfCluster {
    pub(crate) open: usize,
    /// Since it was first asked.
    pub(crate) made: u64,
    /// Requests and TCP streams that wait for a connection, also for one that is being made.
    pub(crate) waiting: usize,
}

impl OfCluster {
    fn is_quiet(self) -> bool {
        self.open == 0 && self.waiting == 0
    }
}

/// One that is open, for as long as this is held.
pub(crate) struct Open {
    connections: Arc<OpenConnections>,
    /// Whose traffic it carries.
    cluster: Option<Arc<str>>,
}

impl OpenConnections {
    pub(crate) fn new(most: usize, most_per_cluster: usize) -> Arc<OpenConnections> {
        Arc::new(OpenConnections {
            most,
            most_per_cluster,
            counts: Mutex::default(),
        })
    }

    /// One more to this cluster, if there may be.
    pub(crate) fn take(self: &Arc<OpenConnections>, cluster: &Arc<str>) -> Option<Open> {
        let mut counts = self.counts.lock();
        if counts.all >= self.most || counts.of(cluster).open >= self.most_per_cluster {
            return None;
        }
        counts.all += 1;
        let of_cluster = counts.of(cluster);
        of_cluster.open += 1;
        of_cluster.made += 1;
        Some(Open {
            connections: self.clone(),
            cluster: Some(cluster.clone()),
        })
    }

    /// One more of all, if there may be, that carries no traffic.
    pub(crate) fn take_for_check(self: &Arc<OpenConnections>) -> Option<Open> {
        let mut counts = self.counts.lock();
        if counts.all >= self.most {
            return None;
        }
        counts.all += 1;
        Some(Open {
            connections: self.clone(),
            cluster: None,
        })
    }

    /// Whether one was ever made to this cluster for traffic.
    pub(crate) fn had_any(&self, cluster: &str) -> bool {
        let counts = self.counts.lock();
        counts.clusters.get(cluster).is_some_and(|of| of.made > 0)
    }

    /// One more that waits for a connection to this cluster.
    pub(crate) fn wait(&self, cluster: &Arc<str>) -> Waiting<'_> {
        self.counts.lock().of(cluster).waiting += 1;
        Waiting {
            connections: self,
            cluster: cluster.clone(),
        }
    }

    /// All that anything was asked of.
    pub(crate) fn by_cluster(&self) -> HashMap<Arc<str>, OfCluster> {
        self.counts.lock().clusters.clone()
    }
}

impl Counts {
    fn of(&mut self, cluster: &Arc<str>) -> &mut OfCluster {
        if self.clusters.len() >= MANY && !self.clusters.contains_key(cluster) {
            self.clusters.retain(|_, count| !count.is_quiet());
        }
        self.clusters.entry(cluster.clone()).or_default()
    }
}

/// One that waits, for as long as this is held.
pub(crate) struct Waiting<'a> {
    connections: &'a OpenConnections,
    cluster: Arc<str>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut counts = self.connections.counts.lock();
        let waiting = &mut counts.of(&self.cluster).waiting;
        *waiting = waiting.saturating_sub(1);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut counts = self.connections.counts.lock();
        counts.all = counts.all.saturating_sub(1);
        if let Some(cluster) = &self.cluster {
            let open = &mut counts.of(cluster).open;
            *open = open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_a_part_of_all() {
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let open = OpenConnections::new(3, 2);
        let mut held: Vec<_> = [&one, &one].map(|cluster| open.take(cluster)).into();
        assert!(held.iter().all(Option::is_some));
        assert!(open.take(&one).is_none(), "its part");
        held.push(open.take(&other));
        assert!(open.take(&other).is_none(), "all there are");
        held.remove(0);
        assert!(open.take(&one).is_some());
        drop(open.wait(&other));
        let waiting = open.wait(&other);
        let of = |open, made, waiting| OfCluster {
            open,
            made,
            waiting,
        };
        assert_eq!(open.by_cluster()[&one], of(1, 3, 0));
        assert_eq!(open.by_cluster()[&other], of(1, 1, 1));
        drop(waiting);
        held.clear();
        assert!(open.by_cluster().values().all(|count| count.is_quiet()));
        assert_eq!(open.counts.lock().all, 0);
    }

    #[test]
    fn clusters_that_come_and_go_are_forgotten() {
        let open = OpenConnections::new(3, 3);
        let held = open.take(&"held".into());
        for n in 0..2 * MANY {
            drop(open.take(&format!("{n}").into()));
        }
        let known = open.by_cluster();
        assert!(held.is_some() && known.contains_key("held"));
        assert!(known.len() <= MANY, "{}", known.len());
    }
}
