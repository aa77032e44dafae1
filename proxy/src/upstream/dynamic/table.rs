//! The hosts of one cluster. Reading takes no lock; a host that is new, or goes, costs a copy of the table.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use waypoint_config::model::balance::endpoint_set::EndpointSet;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::endpoint::Locality;

use crate::upstream::dynamic::host::DynamicHost;
use crate::upstream::dynamic::wanted::Wanted;

type Hosts = HashMap<Box<str>, Arc<DynamicHost>>;

/// Hosts by name and port.
#[derive(Default)]
pub(crate) struct HostTable {
    hosts: ArcSwap<Hosts>,
    changing: Mutex<()>,
    /// Streams that wait for a lookup.
    waiting: AtomicUsize,
}

/// There is no room for a further host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// A host that nobody asked for in so long makes room for another.
const UNUSED: Duration = Duration::from_secs(60);

impl HostTable {
    /// The table of the cluster in this slot.
    pub(crate) fn of(slot: &ClusterSlot) -> Arc<HostTable> {
        let table = slot
            .hosts
            .get_or_init(|| Box::new(Arc::<HostTable>::default()));
        // Nobody else fills the cell; a table of its own keeps the stream going all the same.
        let table: Option<&Arc<HostTable>> = table.downcast_ref();
        table.cloned().unwrap_or_default()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<DynamicHost>> {
        self.hosts.load().get(key).cloned()
    }

    /// The host, and whether it is new.
    pub(crate) fn add(
        &self,
        key: String,
        wanted: &Wanted<'_>,
        most: usize,
    ) -> Result<(Arc<DynamicHost>, bool), Full> {
        let _changing = self.changing.lock();
        let before = self.hosts.load();
        if let Some(host) = before.get(key.as_str()) {
            return Ok((host.clone(), false));
        }
        let mut hosts = Hosts::clone(&before);
        while hosts.len() >= most {
            let expendable = expendable(&hosts).ok_or(Full)?;
            if let Some(host) = hosts.remove(&expendable.key) {
                host.forget();
            }
        }
        let host = Arc::new(DynamicHost::new(&key, wanted));
        hosts.insert(key.into(), host.clone());
        self.hosts.store(Arc::new(hosts));
        Ok((host, true))
    }

    /// Takes a host out, unless another has its place by now.
    pub(crate) fn remove(&self, host: &Arc<DynamicHost>) {
        let _changing = self.changing.lock();
        let before = self.hosts.load();
        if before.get(&host.key).is_some_and(|h| Arc::ptr_eq(h, host)) {
            let mut hosts = Hosts::clone(&before);
            hosts.remove(&host.key);
            self.hosts.store(Arc::new(hosts));
        }
        host.forget();
    }

    /// Makes the hosts that are found the cluster's endpoints, for those who look at them.
    pub(crate) fn publish(&self, slot: &ClusterSlot) {
        let _changing = self.changing.lock();
        let hosts = self.hosts.load();
        let endpoints = hosts.values().filter_map(|host| host.endpoint()).collect();
        slot.set_endpoints(EndpointSet::new(vec![vec![Locality {
            endpoints,
            ..Locality::default()
        }]]));
    }

    /// A place among those who wait, of which there are so many.
    pub(crate) fn wait(&self, most: usize) -> Option<Waiting<'_>> {
        let more = |count| (count < most).then(|| count + 1);
        let taken = self
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Waiting(&self.waiting))
    }
}

/// The host that makes room: one that leads nowhere before one that nobody uses.
fn expendable(hosts: &Hosts) -> Option<Arc<DynamicHost>> {
    let longest = |hosts: &mut dyn Iterator<Item = &Arc<DynamicHost>>| {
        hosts.max_by_key(|host| host.idle()).cloned()
    };
    let mut nowhere = hosts.values().filter(|host| host.nowhere().is_some());
    let mut unused = hosts.values().filter(|host| {
        let active = |e: Arc<waypoint_config::model::endpoint::Endpoint>| {
            e.state.active.load(Ordering::Relaxed) > 0
        };
        host.idle() >= UNUSED && !host.endpoint().is_some_and(active)
    });
    longest(&mut nowhere).or_else(|| longest(&mut unused))
}

/// A stream that waits.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn add(table: &HostTable, name: &str) -> Result<(Arc<DynamicHost>, bool), Full> {
        let wanted = Wanted::parse(name, 80).unwrap();
        table.add(wanted.key(), &wanted, 2)
    }

    #[test]
    fn a_host_is_there_once_and_the_table_has_a_bound() {
        let table = HostTable::default();
        let (a, is_new) = add(&table, "a").unwrap();
        assert!(is_new);
        let (again, is_new) = add(&table, "A").unwrap();
        assert!(!is_new && Arc::ptr_eq(&a, &again));
        let (b, _) = add(&table, "b").unwrap();
        assert_eq!(add(&table, "c").err(), Some(Full));
        // One that leads nowhere makes room.
        b.is_nowhere("no such host");
        add(&table, "c").unwrap();
        assert!(table.get("b:80").is_none() && table.get("a:80").is_some());
    }

    #[test]
    fn who_is_gone_takes_nobody_elses_place() {
        let table = HostTable::default();
        let (old, _) = add(&table, "a").unwrap();
        table.remove(&old);
        assert!(table.get("a:80").is_none());
        let (new, _) = add(&table, "a").unwrap();
        table.remove(&old);
        assert!(Arc::ptr_eq(&table.get("a:80").unwrap(), &new));
    }

    #[test]
    fn so_many_wait_at_a_time() {
        let table = HostTable::default();
        let first = table.wait(1);
        assert!(first.is_some() && table.wait(1).is_none());
        drop(first);
        assert!(table.wait(1).is_some());
    }

    #[tokio::test]
    async fn whoever_waits_for_a_host_that_is_forgotten_is_told() {
        let table = HostTable::default();
        let (host, _) = add(&table, "a").unwrap();
        let waiting = host.clone();
        let waiting = tokio::spawn(async move { waiting.looked_up().await });
        table.remove(&host);
        waiting.await.unwrap();
        assert_eq!(host.nowhere().as_deref(), Some("forgotten"));
    }
}
