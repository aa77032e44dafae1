//! The store: the one writer of configuration. Takes an update, compiles what changed, fills the slots.
//!
//! What is refused keeps its last good version; a chain that never had one is closed. Clusters and
//! endpoints come before listeners within an update, so that routes find them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use parking_lot::Mutex;
use tokio::sync::watch;
use waypoint_filters::host::Host;
use waypoint_filters::rejected::{Refusal, Rejected};
use waypoint_filters::whole;

use crate::model::chain::{ChainSlot, FilterChain};
use crate::model::cluster::{Cluster, ClusterSlot, Discovery};
use crate::model::connection_manager::ChainContext;
use crate::model::endpoint::EndpointSet;
use crate::model::filter_chain_matcher::FilterChainMatcher;
use crate::model::listener::{self, Inspection, RawListener};
use crate::model::snapshot::{ConnectTerminate, MainListener, Snapshot};
use crate::resource::{Resource, ResourceType, Update};
use crate::workloads::{self, WorkloadIndex};

/// What the data path reads; clones share it.
#[derive(Clone)]
pub struct SnapshotHandle {
    snapshot: Arc<ArcSwapOption<Snapshot>>,
    version: watch::Receiver<u64>,
}

impl SnapshotHandle {
    /// `None`: there is no complete configuration yet.
    pub fn load(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Changes whenever anything in the configuration did.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }
}

/// What an update did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub rejected: Vec<Rejected>,
    /// Whether anything changed.
    pub changed: bool,
}

/// Configuration as it stands.
pub struct Store {
    host: Arc<dyn Host>,
    workloads: WorkloadIndex,
    slots: Mutex<HashMap<Arc<str>, Arc<ClusterSlot>>>,
    clusters: HashMap<String, Bytes>,
    endpoints: HashMap<String, Bytes>,
    /// By EDS name, the clusters that take endpoints from it.
    chains: HashMap<String, (Bytes, Arc<ChainSlot>)>,
    listeners: HashMap<String, Bytes>,
    workload_bodies: HashMap<String, Bytes>,
    connect_terminate: Option<Arc<ConnectTerminate>>,
    main: Option<Arc<MainListener>>,
    published: Arc<ArcSwapOption<Snapshot>>,
    version: watch::Sender<u64>,
}

impl Store {
    pub fn new(host: Arc<dyn Host>, workloads: WorkloadIndex) -> Store {
        Store {
            host,
            workloads,
            slots: Mutex::default(),
            clusters: HashMap::new(),
            endpoints: HashMap::new(),
            chains: HashMap::new(),
            listeners: HashMap::new(),
            workload_bodies: HashMap::new(),
            connect_terminate: None,
            main: None,
            published: Arc::new(ArcSwapOption::empty()),
            version: watch::Sender::new(0),
        }
    }

    /// What the data path reads from.
    pub fn handle(&self) -> SnapshotHandle {
        SnapshotHandle {
            snapshot: self.published.clone(),
            version: self.version.subscribe(),
        }
    }

    /// Trust domains of `connect_terminate`.
    pub fn trust_domains(&self) -> Vec<String> {
        self.connect_terminate
            .as_ref()
            .map_or(Vec::new(), |c| c.trust_domains.clone())
    }

    /// The names of the assignments that clusters have their endpoints from.
    pub fn wanted_endpoints(&self) -> std::collections::BTreeSet<String> {
        let slots = self.slots.lock();
        let from_eds = |name: &&String| {
            let cluster = slots.get(name.as_str()).and_then(|slot| slot.cluster());
            cluster.is_some_and(|cluster| matches!(cluster.discovery, Discovery::Eds { .. }))
        };
        self.clusters.keys().filter(from_eds).cloned().collect()
    }

    /// Takes an update in one step.
    pub fn apply(&mut self, update: Update) -> Outcome {
        let mut outcome = Outcome::default();
        let mut by_kind: HashMap<ResourceType, Vec<Resource>> = HashMap::new();
        for resource in update.added {
            by_kind.entry(resource.kind).or_default().push(resource);
        }
        let mut of = |kind| by_kind.remove(&kind).unwrap_or_default();
        self.apply_workloads(of(ResourceType::Workload), &update.removed, &mut outcome);
        for resource in of(ResourceType::Cluster) {
            self.apply_cluster(resource, &mut outcome);
        }
        for resource in of(ResourceType::Endpoints) {
            self.apply_endpoints(resource, &mut outcome);
        }
        for resource in of(ResourceType::Listener) {
            self.apply_listener(resource, &mut outcome);
        }
        for kind in [
            ResourceType::Routes,
            ResourceType::Extension,
            ResourceType::Secret,
        ] {
            for resource in of(kind) {
                let reason = Refusal::new(
                    "",
                    format!("{} resources are not supported", kind.type_url()),
                );
                outcome.rejected.push(reason.of(resource.name));
            }
        }
        for (kind, name) in update.removed {
            outcome.changed |= self.remove(kind, &name);
        }
        self.publish(&mut outcome);
        outcome
    }

    fn apply_workloads(
        &mut self,
        added: Vec<Resource>,
        removed: &[(ResourceType, String)],
        outcome: &mut Outcome,
    ) {
        let mut changed = false;
        for (kind, name) in removed {
            if *kind == ResourceType::Workload {
                changed |= self.workload_bodies.remove(name).is_some();
            }
        }
        for resource in added {
            changed |= self.workload_bodies.get(&resource.name) != Some(&resource.body);
            self.workload_bodies.insert(resource.name, resource.body);
        }
        if !changed {
            return;
        }
        let mut index = HashMap::new();
        for (name, body) in &self.workload_bodies {
            if let Err(refusal) = workloads::add(body, &mut index) {
                outcome.rejected.push(refusal.of(name.as_str()));
            }
        }
        self.workloads.store(index);
        // Endpoints carry their workload; they are made again, and keep their state.
        let bodies: Vec<_> = self.endpoints.drain().collect();
        for (name, body) in bodies {
            let resource = Resource {
                kind: ResourceType::Endpoints,
                name,
                body,
            };
            self.apply_endpoints(resource, outcome);
        }
        outcome.changed = true;
    }

    fn slot(&self, name: &str) -> Arc<ClusterSlot> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(name) {
            return slot.clone();
        }
        let slot = Arc::new(ClusterSlot::missing(name));
        slots.insert(slot.name.clone(), slot.clone());
        slot
    }

    fn apply_cluster(&mut self, resource: Resource, outcome: &mut Outcome) {
        if self.clusters.get(&resource.name) == Some(&resource.body) {
            return;
        }
        let compiled = whole::decode::<ClusterProto>(&resource.body)
            .and_then(|proto| Ok((Cluster::from_proto(&proto)?, proto)));
        match compiled {
            Err(refusal) => outcome.rejected.push(refusal.of(resource.name)),
            Ok((cluster, proto)) => {
                let slot = self.slot(&resource.name);
                if cluster.discovery == Discovery::Static
                    && let Some(assignment) = &proto.load_assignment
                    && !is_infrastructure(&resource.name)
                {
                    match self.endpoint_set(assignment, &slot) {
                        Ok(set) => slot.set_endpoints(Arc::new(set)),
                        Err(refusal) => {
                            let refusal = refusal.within("load_assignment");
                            outcome.rejected.push(refusal.of(resource.name));
                            return;
                        }
                    }
                }
                slot.set_cluster(Some(Arc::new(cluster)));
                self.clusters.insert(resource.name, resource.body);
                outcome.changed = true;
            }
        }
    }

    fn endpoint_set(
        &self,
        proto: &ClusterLoadAssignment,
        slot: &ClusterSlot,
    ) -> Result<EndpointSet, Refusal> {
        let peer = |address: IpAddr| self.workloads.lookup(address);
        EndpointSet::from_proto(proto, &slot.endpoints(), &peer)
    }

    fn apply_endpoints(&mut self, resource: Resource, outcome: &mut Outcome) {
        if self.endpoints.get(&resource.name) == Some(&resource.body) {
            return;
        }
        // istiod names assignments as their clusters.
        let slot = self.slot(&resource.name);
        let compiled = whole::decode::<ClusterLoadAssignment>(&resource.body)
            .and_then(|proto| self.endpoint_set(&proto, &slot));
        match compiled {
            Err(refusal) => outcome.rejected.push(refusal.of(resource.name)),
            Ok(set) => {
                slot.set_endpoints(Arc::new(set));
                self.endpoints.insert(resource.name, resource.body);
                outcome.changed = true;
            }
        }
    }

    fn apply_listener(&mut self, resource: Resource, outcome: &mut Outcome) {
        if self.listeners.get(&resource.name) == Some(&resource.body) {
            return;
        }
        let raw = RawListener::decode(&resource.body).and_then(|raw| raw.check().map(|()| raw));
        let applied = match (raw, resource.name.as_str()) {
            (Err(refusal), _) => Err(refusal),
            (Ok(raw), "connect_terminate") => self.connect_terminate(&raw),
            (Ok(raw), "main_internal") => self.main_internal(&raw, outcome),
            // How tunnels go up is the waypoint's own; the other two carry multi-network traffic, which
            // no endpoint leads into: endpoints that would are refused by name.
            (
                Ok(_),
                "connect_originate" | "inner_connect_originate" | "outer_connect_originate",
            ) => Ok(()),
            (Ok(_), _) => Err(Refusal::new(
                "name",
                "no waypoint has a listener of this name",
            )),
        };
        match applied {
            Err(refusal) => outcome.rejected.push(refusal.of(resource.name)),
            Ok(()) => {
                self.listeners.insert(resource.name, resource.body);
                outcome.changed = true;
            }
        }
    }

    fn connect_terminate(&mut self, raw: &RawListener) -> Result<(), Refusal> {
        let slot = |name: &str| self.slot(name);
        let context = ChainContext {
            host: &self.host,
            slot: &slot,
        };
        let compiled = listener::connect_terminate(raw, &context)?;
        self.connect_terminate = Some(Arc::new(compiled));
        Ok(())
    }

    /// Chain by chain: those whose bytes are the same stay as they are.
    fn main_internal(&mut self, raw: &RawListener, outcome: &mut Outcome) -> Result<(), Refusal> {
        let proto = raw
            .listener
            .filter_chain_matcher
            .as_ref()
            .ok_or_else(|| Refusal::missing("filter_chain_matcher"))?;
        let inspection = Inspection::from_proto(&raw.listener.listener_filters)?;
        let recorders = listener::recorders(&raw.listener, &*self.host);
        let mut chains = HashMap::new();
        for chain in &raw.chains {
            let slot = self.chain(&chain.name, &chain.body, outcome);
            chains.insert(slot.name.clone(), slot);
        }
        let by_name = |name: &str| chains.get(name).cloned();
        let matcher = FilterChainMatcher::from_proto(proto, &by_name)
            .map_err(|e| e.within("filter_chain_matcher"))?;
        self.chains
            .retain(|name, _| chains.contains_key(name.as_str()));
        self.main = Some(Arc::new(MainListener {
            matcher,
            inspection,
            chains,
            recorders,
        }));
        Ok(())
    }

    fn chain(&mut self, name: &str, body: &Bytes, outcome: &mut Outcome) -> Arc<ChainSlot> {
        let known = self.chains.get(name);
        if let Some((known, slot)) = known
            && known == body
        {
            return slot.clone();
        }
        let existing = known.map(|(_, slot)| slot.clone());
        let slot = |name: &str| self.slot(name);
        let context = ChainContext {
            host: &self.host,
            slot: &slot,
        };
        let compiled = listener::chain(body, &context);
        let slot = match compiled {
            Ok(chain) => match existing {
                Some(slot) => {
                    slot.store(chain);
                    slot
                }
                None => Arc::new(ChainSlot::new(name, chain)),
            },
            Err(refusal) => {
                let reason = refusal.to_string();
                outcome
                    .rejected
                    .push(refusal.of(format!("main_internal > {name}")));
                match existing {
                    // The last good version stays; the bytes are forgotten, so that they are told of again.
                    Some(slot) => return slot,
                    None => Arc::new(ChainSlot::new(name, FilterChain::Closed(reason.into()))),
                }
            }
        };
        self.chains
            .insert(name.to_owned(), (body.clone(), slot.clone()));
        slot
    }

    fn remove(&mut self, kind: ResourceType, name: &str) -> bool {
        match kind {
            ResourceType::Cluster => {
                if self.clusters.remove(name).is_some() {
                    self.slot(name).set_cluster(None);
                    return true;
                }
                false
            }
            ResourceType::Endpoints => {
                if self.endpoints.remove(name).is_some() {
                    self.slot(name)
                        .set_endpoints(Arc::new(EndpointSet::default()));
                    return true;
                }
                false
            }
            ResourceType::Listener => {
                match name {
                    "main_internal" => self.main = None,
                    "connect_terminate" => self.connect_terminate = None,
                    _ => {}
                }
                self.listeners.remove(name).is_some()
            }
            _ => false,
        }
    }

    fn publish(&mut self, outcome: &mut Outcome) {
        if !outcome.changed {
            return;
        }
        let snapshot = match (&self.connect_terminate, &self.main) {
            (Some(connect_terminate), Some(main)) => Some(Arc::new(Snapshot {
                connect_terminate: connect_terminate.clone(),
                main: main.clone(),
            })),
            _ => None,
        };
        self.published.store(snapshot);
        // Slots that nothing refers to any more.
        let kept: HashSet<&str> = self
            .clusters
            .keys()
            .chain(self.endpoints.keys())
            .map(String::as_str)
            .collect();
        self.slots
            .lock()
            .retain(|name, slot| Arc::strong_count(slot) > 1 || kept.contains(&**name));
        self.version.send_modify(|version| *version += 1);
    }
}

/// Clusters that only lead from one of Envoy's internal listeners to the next.
fn is_infrastructure(name: &str) -> bool {
    matches!(name, "main_internal" | "inner_connect_originate" | "encap")
}
