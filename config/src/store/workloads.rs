//! The mesh's workloads by address, for telemetry.
//!
//! istiod tells a waypoint of every workload of the cluster, so a change must not cost what the cluster does:
//! the index is cut into parts, and a change copies the parts that it touches. Text that workloads share
//! (namespaces, clusters, revisions) is kept once. A workload on its node's network has no address of its
//! own and isn't indexed.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prost::Message;
use waypoint_filters::stream::peer::Peer;
use waypoint_filters::xds::proto::{Workload, WorkloadNetworkMode, WorkloadTunnelProtocol};
use waypoint_filters::xds::rejected::{Refusal, Rejected};

use crate::resource::Resource;

/// Addresses kept at most.
const MAX_ADDRESSES: usize = 1_000_000;
/// Parts of the index; an address's last byte says which.
const PARTS: usize = 256;

type Part = HashMap<IpAddr, Arc<Peer>>;

/// The index that the data path reads; clones share it.
#[derive(Clone)]
pub struct WorkloadIndex(Arc<[ArcSwap<Part>]>);

impl Default for WorkloadIndex {
    fn default() -> WorkloadIndex {
        WorkloadIndex((0..PARTS).map(|_| ArcSwap::default()).collect())
    }
}

impl WorkloadIndex {
    pub fn lookup(&self, address: IpAddr) -> Option<Arc<Peer>> {
        let address = address.to_canonical();
        self.0.get(part_of(address))?.load().get(&address).cloned()
    }

    /// All workloads with their addresses, by namespace and name. It takes as long as there are many.
    pub fn all(&self) -> Vec<(Arc<Peer>, Vec<IpAddr>)> {
        let mut found: HashMap<*const Peer, (Arc<Peer>, Vec<IpAddr>)> = HashMap::new();
        for part in &*self.0 {
            for (address, peer) in &**part.load() {
                let known = found.entry(Arc::as_ptr(peer));
                let (_, addresses) = known.or_insert_with(|| (peer.clone(), Vec::new()));
                addresses.push(*address);
            }
        }
        let mut all: Vec<_> = found.into_values().collect();
        all.iter_mut().for_each(|(_, addresses)| addresses.sort());
        all.sort_by(|(a, _), (b, _)| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        all
    }
}

fn part_of(address: IpAddr) -> usize {
    let last = match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    usize::from(last) % PARTS
}

/// The index's one writer.
#[derive(Default)]
pub(crate) struct WorkloadTable {
    index: WorkloadIndex,
    /// By unique id.
    workloads: HashMap<String, Held>,
    addresses: usize,
    names: Names,
}

struct Held {
    /// Of the bytes that it was made of.
    fingerprint: u64,
    peer: Arc<Peer>,
    addresses: Box<[IpAddr]>,
}

/// What an update of workloads did.
#[derive(Default)]
pub(crate) struct WorkloadChanges {
    /// Addresses at which another workload is now, or none.
    pub(crate) addresses: HashSet<IpAddr>,
    pub(crate) rejected: Vec<Rejected>,
}

/// Parts of the index that are being changed.
type Draft = HashMap<usize, Part>;

impl WorkloadTable {
    pub(crate) fn new(index: WorkloadIndex) -> WorkloadTable {
        WorkloadTable {
            index,
            ..WorkloadTable::default()
        }
    }

    pub(crate) fn lookup(&self, address: IpAddr) -> Option<Arc<Peer>> {
        self.index.lookup(address)
    }

    /// Takes additions and removals in one step.
    pub(crate) fn apply(&mut self, added: Vec<Resource>, removed: &[&str]) -> WorkloadChanges {
        let mut changes = WorkloadChanges::default();
        let mut draft = Draft::new();
        for name in removed {
            if let Some(held) = self.workloads.remove(*name) {
                self.release(&held, &mut draft, &mut changes);
            }
        }
        for resource in added {
            if let Err(refusal) = self.add(&resource, &mut draft, &mut changes) {
                changes.rejected.push(refusal.of(resource.name));
            }
        }
        for (part, content) in draft {
            if let Some(place) = self.index.0.get(part) {
                place.store(Arc::new(content));
            }
        }
        self.names.sweep();
        changes
    }

    fn add(
        &mut self,
        resource: &Resource,
        draft: &mut Draft,
        changes: &mut WorkloadChanges,
    ) -> Result<(), Refusal> {
        let mut hasher = DefaultHasher::new();
        resource.body.hash(&mut hasher);
        let fingerprint = hasher.finish();
        let before = self.workloads.get(&resource.name);
        if before.is_some_and(|held| held.fingerprint == fingerprint) {
            return Ok(());
        }
        let workload = Workload::decode(resource.body.clone())
            .map_err(|error| Refusal::new("", error.to_string()))?;
        let addresses = addresses(&workload)?;
        let others = self.addresses - before.map_or(0, |held| held.addresses.len());
        if others + addresses.len() > MAX_ADDRESSES {
            let reason = format!("more than {MAX_ADDRESSES} in all");
            return Err(Refusal::new("addresses", reason));
        }
        let held = Held {
            fingerprint,
            peer: Arc::new(self.names.peer(&workload)),
            addresses,
        };
        if let Some(before) = self.workloads.remove(&resource.name) {
            self.release(&before, draft, changes);
        }
        for address in &held.addresses {
            self.part(*address, draft)
                .insert(*address, held.peer.clone());
            changes.addresses.insert(*address);
        }
        self.addresses += held.addresses.len();
        self.workloads.insert(resource.name.clone(), held);
        Ok(())
    }

    /// Takes a workload out, unless its address is another's already: a pod's successor may be told of first.
    fn release(&mut self, held: &Held, draft: &mut Draft, changes: &mut WorkloadChanges) {
        self.addresses -= held.addresses.len();
        for address in &held.addresses {
            let part = self.part(*address, draft);
            if part
                .get(address)
                .is_some_and(|peer| Arc::ptr_eq(peer, &held.peer))
            {
                part.remove(address);
                changes.addresses.insert(*address);
            }
        }
    }

    fn part<'a>(&self, address: IpAddr, draft: &'a mut Draft) -> &'a mut Part {
        let part = part_of(address);
        draft.entry(part).or_insert_with(|| {
            let place = self.index.0.get(part);
            place.map(|p| (**p.load()).clone()).unwrap_or_default()
        })
    }
}

fn addresses(workload: &Workload) -> Result<Box<[IpAddr]>, Refusal> {
    if workload.network_mode == i32::from(WorkloadNetworkMode::HostNetwork) {
        return Ok(Box::default());
    }
    workload
        .addresses
        .iter()
        .map(|bytes| {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or(v6)
                .map(|address| address.to_canonical())
                .map_err(|_| Refusal::new("addresses", "is no IP address"))
        })
        .collect()
}

/// Text that workloads share, once each.
#[derive(Default)]
struct Names {
    texts: HashSet<Arc<str>>,
    /// How many there were after the last sweep.
    swept: usize,
}

impl Names {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.texts.insert(new.clone());
        new
    }

    /// Drops what no workload has any more, when there is twice as much as last time.
    fn sweep(&mut self) {
        if self.texts.len() > 1024 + 2 * self.swept {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.swept = self.texts.len();
        }
    }

    fn peer(&mut self, workload: &Workload) -> Peer {
        let or = |text: &str, default: &'static str| match text {
            "" => default.to_owned(),
            text => text.to_owned(),
        };
        let domain = or(&workload.trust_domain, "cluster.local");
        let account = or(&workload.service_account, "default");
        let namespace = &workload.namespace;
        let canonical_name = self.get(&workload.canonical_name);
        let canonical_revision = self.get(&workload.canonical_revision);
        Peer {
            name: workload.name.as_str().into(),
            workload: self.get(&workload.workload_name),
            namespace: self.get(namespace),
            app: canonical_name.clone(),
            canonical_name,
            version: canonical_revision.clone(),
            canonical_revision,
            cluster: self.get(&workload.cluster_id),
            workload_type: self.get(match workload.workload_type {
                1 => "cronjob",
                2 => "pod",
                3 => "job",
                _ => "deployment",
            }),
            principal: self.get(&format!("spiffe://{domain}/ns/{namespace}/sa/{account}")),
            node: self.get(&workload.node),
            waypoint: match workload.waypoint.as_ref().and_then(|w| w.hostname.as_ref()) {
                None => self.get(""),
                Some(host) => self.get(&format!("{}/{}", host.namespace, host.hostname)),
            },
            hbone: workload.tunnel_protocol == i32::from(WorkloadTunnelProtocol::Hbone),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::resource::ResourceType;

    fn pod(uid: &str, name: &str, addresses: &[[u8; 4]]) -> Resource {
        let workload = Workload {
            name: name.into(),
            namespace: "default".into(),
            addresses: addresses.iter().map(|a| a.to_vec()).collect(),
            uid: uid.into(),
            ..Workload::default()
        };
        Resource {
            kind: ResourceType::Workload,
            name: uid.into(),
            body: workload.encode_to_vec().into(),
        }
    }

    const A: [u8; 4] = [10, 0, 0, 1];
    const B: [u8; 4] = [10, 0, 0, 2];

    fn name(table: &WorkloadTable, address: [u8; 4]) -> Option<String> {
        Some(table.lookup(address.into())?.name.to_string())
    }

    #[test]
    fn workloads_come_change_and_go() {
        let mut table = WorkloadTable::default();
        let changes = table.apply(vec![pod("1", "one", &[A]), pod("2", "two", &[B])], &[]);
        assert_eq!(changes.addresses.len(), 2);
        assert_eq!(name(&table, A).unwrap(), "one");
        let same = table.apply(vec![pod("1", "one", &[A])], &[]);
        assert!(same.addresses.is_empty(), "nothing changed");
        table.apply(vec![pod("1", "one", &[[10, 0, 0, 3]])], &[]);
        assert_eq!(name(&table, A), None, "it moved");
        assert_eq!(name(&table, [10, 0, 0, 3]).unwrap(), "one");
        table.apply(Vec::new(), &["1", "2", "never"]);
        assert_eq!((name(&table, B), table.addresses), (None, 0));
    }

    #[test]
    fn all_are_told_by_name() {
        let mut table = WorkloadTable::default();
        table.apply(
            vec![pod("2", "two", &[B]), pod("1", "one", &[[10, 0, 0, 9], A])],
            &[],
        );
        let all = table.index.all();
        let names: Vec<_> = all
            .iter()
            .map(|(peer, ips)| (&*peer.name, ips.len()))
            .collect();
        assert_eq!(names, [("one", 2), ("two", 1)]);
        assert_eq!(all[0].1, [IpAddr::from(A), IpAddr::from([10, 0, 0, 9])]);
    }

    #[test]
    fn an_address_may_be_its_successors_before_the_predecessor_goes() {
        let mut table = WorkloadTable::default();
        table.apply(vec![pod("old", "old", &[A])], &[]);
        table.apply(vec![pod("new", "new", &[A])], &[]);
        table.apply(Vec::new(), &["old"]);
        assert_eq!(name(&table, A).unwrap(), "new");
        // Both in one step, in either order.
        table.apply(vec![pod("newest", "newest", &[A])], &["new"]);
        assert_eq!(name(&table, A).unwrap(), "newest");
    }

    #[test]
    fn pods_on_their_nodes_network_have_no_address_of_their_own() {
        let mut table = WorkloadTable::default();
        let host = Workload {
            addresses: vec![A.to_vec()],
            network_mode: WorkloadNetworkMode::HostNetwork.into(),
            ..Workload::default()
        };
        let resource = Resource {
            body: host.encode_to_vec().into(),
            ..pod("1", "", &[])
        };
        assert!(table.apply(vec![resource], &[]).rejected.is_empty());
        assert_eq!(name(&table, A), None);
    }

    #[test]
    fn what_is_no_workload_is_refused_by_name() {
        let mut table = WorkloadTable::default();
        let bad = Workload {
            addresses: vec![vec![1, 2, 3]],
            ..Workload::default()
        };
        let resource = |body: Vec<u8>| Resource {
            body: body.into(),
            ..pod("bad", "", &[])
        };
        for body in [bad.encode_to_vec(), vec![0xff]] {
            let changes = table.apply(vec![resource(body), pod("1", "one", &[A])], &[]);
            assert_eq!(changes.rejected.len(), 1);
            assert_eq!(changes.rejected[0].resource, "bad");
        }
        assert_eq!(name(&table, A).unwrap(), "one");
    }

    #[test]
    fn shared_text_is_kept_once() {
        let mut table = WorkloadTable::default();
        table.apply(vec![pod("1", "one", &[A]), pod("2", "two", &[B])], &[]);
        let (a, b) = (
            table.lookup(A.into()).unwrap(),
            table.lookup(B.into()).unwrap(),
        );
        assert!(Arc::ptr_eq(&a.namespace, &b.namespace));
        assert!(Arc::ptr_eq(&a.principal, &b.principal));
    }
}
