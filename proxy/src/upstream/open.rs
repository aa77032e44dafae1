//! How many connections to endpoints there are: in all, and by cluster.
//!
//! Each holds memory here and in the kernel, whoever is stalled at its other end. What a DestinationRule limits comes first and
//! is counted apart ([`limits`](crate::upstream::limits)). One cluster has at most a part of all, so that its endpoints,
//! when they stall, leave room for those of others.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

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
    clusters: HashMap<Arc<str>, usize>,
}

/// One that is open, for as long as this is held.
pub(crate) struct Open {
    connections: Arc<OpenConnections>,
    cluster: Arc<str>,
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
        let of_cluster = counts.clusters.get(cluster).copied().unwrap_or(0);
        if counts.all >= self.most || of_cluster >= self.most_per_cluster {
            return None;
        }
        counts.all += 1;
        counts.clusters.insert(cluster.clone(), of_cluster + 1);
        Some(Open {
            connections: self.clone(),
            cluster: cluster.clone(),
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut counts = self.connections.counts.lock();
        counts.all = counts.all.saturating_sub(1);
        if let Some(count) = counts.clusters.get_mut(&self.cluster) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.clusters.remove(&self.cluster);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_a_part_and_what_ends_is_forgotten() {
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let open = OpenConnections::new(3, 2);
        let mut held: Vec<_> = [&one, &one].map(|cluster| open.take(cluster)).into();
        assert!(held.iter().all(Option::is_some));
        assert!(open.take(&one).is_none(), "its part");
        held.push(open.take(&other));
        assert!(open.take(&other).is_none(), "all there are");
        held.remove(0);
        assert!(open.take(&one).is_some());
        held.clear();
        assert!(open.counts.lock().clusters.is_empty());
        assert_eq!(open.counts.lock().all, 0);
    }
}
