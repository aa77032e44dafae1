//! The store: the one writer of configuration. Takes an update, compiles what changed, fills the slots.
//!
//! What is refused keeps its last good version; a chain that never had one is closed. Clusters and
//! endpoints come before listeners within an update, so that routes find them; what listeners refer to by
//! name comes before them, too, and whoever waits for it is compiled when it comes.

mod chains;
mod clusters;
mod dns;
mod health_checks;
mod listeners;
mod outliers;
pub mod received;
mod secrets;
pub mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use waypoint_filters::callout::CalloutCluster;
use waypoint_filters::host::Host;
use waypoint_filters::xds::omitted::Omitted;
use waypoint_filters::xds::rejected::{Refusal, Rejected};

pub use crate::store::chains::{ChainState, OnRefused};

use crate::model::cluster::dns::{Answer, Question};
use crate::model::cluster::slot::ClusterSlot;
use crate::model::discovered::{ByName, Discovered, Reference};
use crate::model::listener::snapshot::Snapshot;
use crate::model::listener::{CONNECT_TERMINATE, MAIN_INTERNAL};
use crate::resource::{Changes, Resource, ResourceType, Update};
use crate::store::chains::Surroundings;
use crate::store::clusters::ClusterTable;
use crate::store::listeners::ListenerTable;
use crate::store::received::{Received, Response};
use crate::store::workloads::{WorkloadIndex, WorkloadTable};

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
    workloads: WorkloadTable,
    clusters: ClusterTable,
    on_refused: OnRefused,
    listeners: ListenerTable,
    discovered: Discovered,
    received: Received,
    /// How many updates there were.
    updates: u64,
    published: Arc<ArcSwapOption<Snapshot>>,
    version: watch::Sender<u64>,
}

impl Store {
    pub fn new(host: Arc<dyn Host>, workloads: WorkloadIndex, on_refused: OnRefused) -> Store {
        Store {
            host,
            workloads: WorkloadTable::new(workloads),
            clusters: ClusterTable::default(),
            on_refused,
            listeners: ListenerTable::new(on_refused),
            discovered: Discovered::default(),
            received: Received::default(),
            updates: 0,
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

    /// The place of a cluster, for those who call it beside traffic.
    pub fn callout_cluster(&self, name: &str) -> Arc<dyn CalloutCluster> {
        self.clusters.slot(name)
    }

    /// What the admin port reads from.
    pub fn received(&self) -> Received {
        self.received.clone()
    }

    /// Trust domains of `connect_terminate`.
    pub fn trust_domains(&self) -> Vec<String> {
        self.listeners.trust_domains()
    }

    /// The names of this type that configuration refers to. Empty for types that come whole.
    pub fn wanted(&self, kind: ResourceType) -> BTreeSet<String> {
        match kind {
            ResourceType::Endpoints => return self.clusters.wanted_assignments(),
            ResourceType::Secret => return self.clusters.wanted_secrets(),
            _ => {}
        }
        let of_kind = self
            .listeners
            .referred()
            .filter(|(of, _)| of.resource_type() == kind);
        of_kind.map(|(_, name)| name.clone()).collect()
    }

    /// Telemetry that is left out, with the name of what it stands in.
    pub fn omitted(&self) -> impl Iterator<Item = (&str, &Omitted)> {
        self.listeners.omitted()
    }

    /// Everything whose last version was refused.
    pub fn rejected(&self) -> Vec<Rejected> {
        let mut rejected = self.received.rejected();
        rejected.extend(self.listeners.rejected_chains());
        rejected
    }

    /// How many filter chains are in which state.
    pub fn chain_states(&self) -> BTreeMap<ChainState, usize> {
        self.listeners.chain_states()
    }

    /// Secrets that clusters refer to and that have never come.
    pub fn awaited_secrets(&self) -> BTreeSet<String> {
        self.clusters.wanted_secrets();
        self.clusters.secrets.slots.awaited()
    }

    /// No more secrets are on their way: whoever waits for one needn't.
    pub fn settle_secrets(&self) {
        self.clusters.secrets.set_absent();
    }

    /// The names that are to be looked up, as long as they are here.
    pub fn questions(&self) -> Vec<Question> {
        self.clusters.dns.questions()
    }

    /// How many names have never been looked up.
    pub fn untried_names(&self) -> usize {
        self.clusters.dns.untried()
    }

    /// Takes what a lookup found.
    pub fn answer(&mut self, question: &Question, answer: &Answer) {
        let peer = |address: IpAddr| self.workloads.lookup(address);
        self.clusters.answer(question, answer, &peer);
    }

    /// Judges endpoints by what is known of them: an endpoint's sign may have come, or time has passed. When to look again, whatever
    /// comes meanwhile.
    pub fn look_for_outliers(
        &mut self,
        now: Instant,
        random: impl FnMut() -> u64,
    ) -> Option<Instant> {
        // First what checks found: it may take an outlier back.
        self.clusters.checked.look();
        self.clusters.outliers.look(now, random)
    }

    /// The clusters whose endpoints are checked.
    pub fn checked_clusters(&self) -> Vec<Arc<ClusterSlot>> {
        self.clusters.checked.slots().cloned().collect()
    }

    /// Takes an update in one step.
    pub fn apply(&mut self, update: Update) -> Outcome {
        let mut outcome = Outcome::default();
        self.updates += 1;
        let response = Arc::new(Response {
            // Manifests have no version of their own.
            version: match update.version.is_empty() {
                true => self.updates.to_string(),
                false => update.version.clone(),
            },
            at: SystemTime::now(),
        });
        let mut gone = Vec::new();
        for (kind, changes) in update.by_type() {
            let before = outcome.rejected.len();
            let Changes { added, removed } = changes;
            self.apply_type(kind, added, &removed, &response, &mut outcome);
            let accepted = outcome.rejected.len() == before;
            self.received.count(kind, accepted);
            gone.push((kind, removed));
        }
        // Nothing is taken away before what stands in for it is there.
        for (kind, names) in gone {
            for name in names {
                outcome.changed |= self.remove(kind, &name);
                let stays = kind == ResourceType::Secret && self.clusters.secrets.is_in_use(&name);
                if !stays {
                    self.received.remove(kind, &name);
                }
            }
        }
        self.publish(&outcome);
        outcome
    }

    /// Takes what came of a type; and its removals, where whoever refers to it is compiled anew.
    fn apply_type(
        &mut self,
        kind: ResourceType,
        added: Vec<Resource>,
        removed: &[String],
        response: &Arc<Response>,
        outcome: &mut Outcome,
    ) {
        match kind {
            ResourceType::Workload => self.apply_workloads(added, removed, response, outcome),
            ResourceType::Extension => {
                self.apply_by_name(ByName::Extension, added, removed, response, outcome);
            }
            ResourceType::Routes => {
                self.apply_by_name(ByName::Routes, added, removed, response, outcome);
            }
            ResourceType::Cluster => self.apply_each(added, response, outcome, |store, r, _| {
                let peer = |address: IpAddr| store.workloads.lookup(address);
                store.clusters.take_cluster(&r.name, &r.body, &peer)
            }),
            ResourceType::Endpoints => self.apply_each(added, response, outcome, |store, r, _| {
                let peer = |address: IpAddr| store.workloads.lookup(address);
                store.clusters.take_assignment(&r.name, &r.body, &peer)
            }),
            ResourceType::Listener => {
                self.apply_each(added, response, outcome, |store, r, rejected| {
                    let around = Surroundings {
                        host: &store.host,
                        clusters: &store.clusters,
                        discovered: &store.discovered,
                    };
                    store.listeners.take(&r.name, &r.body, &around, rejected)
                });
            }
            ResourceType::Secret => self.apply_each(added, response, outcome, |store, r, _| {
                store.clusters.secrets.take(&r.name, &r.body)
            }),
        }
    }

    /// Takes resources one by one; `take` says whether anything changed, and what in them can't serve.
    fn apply_each(
        &mut self,
        added: Vec<Resource>,
        response: &Arc<Response>,
        outcome: &mut Outcome,
        take: impl Fn(&mut Store, &Resource, &mut Vec<Rejected>) -> Result<bool, Refusal>,
    ) {
        for resource in added {
            let taken = take(self, &resource, &mut outcome.rejected);
            self.settle(resource, taken, response, outcome);
        }
    }

    /// Notes what became of a resource.
    fn settle(
        &mut self,
        resource: Resource,
        taken: Result<bool, Refusal>,
        response: &Arc<Response>,
        outcome: &mut Outcome,
    ) {
        match taken {
            Ok(changed) => {
                outcome.changed |= changed;
                if resource.kind == ResourceType::Cluster {
                    let slot = self.clusters.slot(&resource.name);
                    self.received.set_cluster(slot);
                }
                self.received.accept(resource, response);
            }
            Err(refusal) => {
                self.close_if_strict(&resource, outcome);
                let rejected = refusal.of(resource.name.as_str());
                outcome.rejected.push(rejected.clone());
                self.received.refuse(resource.kind, rejected, response);
            }
        }
    }

    /// A cluster whose new version is refused might be reached in a way that is no longer wanted.
    fn close_if_strict(&mut self, refused: &Resource, outcome: &mut Outcome) {
        let strict = self.on_refused == OnRefused::Close;
        if strict
            && refused.kind == ResourceType::Cluster
            && self.clusters.remove_cluster(&refused.name)
        {
            self.received.remove(refused.kind, &refused.name);
            outcome.changed = true;
        }
    }

    fn apply_workloads(
        &mut self,
        added: Vec<Resource>,
        removed: &[String],
        response: &Arc<Response>,
        outcome: &mut Outcome,
    ) {
        let removed: Vec<&str> = removed.iter().map(String::as_str).collect();
        let changes = self.workloads.apply(added, &removed);
        for rejected in changes.rejected {
            outcome.rejected.push(rejected.clone());
            self.received
                .refuse(ResourceType::Workload, rejected, response);
        }
        if !changes.addresses.is_empty() {
            let peer = |address: IpAddr| self.workloads.lookup(address);
            self.clusters.refresh_peers(&changes.addresses, &peer);
            outcome.changed = true;
        }
    }

    /// Filters or routes that come by name, and the chains that refer to them.
    fn apply_by_name(
        &mut self,
        kind: ByName,
        added: Vec<Resource>,
        removed: &[String],
        response: &Arc<Response>,
        outcome: &mut Outcome,
    ) {
        let mut changed = BTreeSet::new();
        for resource in added {
            let Resource { name, body, .. } = &resource;
            let taken = self.discovered.take(kind, name, body, &self.host);
            if taken == Ok(true) {
                changed.insert((kind, name.clone()));
            }
            self.settle(resource, taken, response, outcome);
        }
        for name in removed {
            if self.discovered.remove(kind, name) {
                changed.insert((kind, name.clone()));
            }
        }
        if changed.is_empty() {
            return;
        }
        outcome.changed = true;
        let around = Surroundings {
            host: &self.host,
            clusters: &self.clusters,
            discovered: &self.discovered,
        };
        let rejected = &mut outcome.rejected;
        let terminate = self.listeners.take_references(&changed, &around, rejected);
        if let Some((body, taken)) = terminate {
            let resource = Resource {
                kind: ResourceType::Listener,
                name: CONNECT_TERMINATE.to_owned(),
                body,
            };
            self.settle(resource, taken, response, outcome);
        }
    }

    fn remove(&mut self, kind: ResourceType, name: &str) -> bool {
        match kind {
            ResourceType::Cluster => self.clusters.remove_cluster(name),
            ResourceType::Endpoints => self.clusters.remove_assignment(name),
            ResourceType::Listener => self.listeners.remove(name),
            // Taken with what was added.
            ResourceType::Workload | ResourceType::Extension | ResourceType::Routes => false,
            ResourceType::Secret => self.clusters.secrets.remove(name),
        }
    }

    fn publish(&mut self, outcome: &Outcome) {
        if !outcome.changed {
            return;
        }
        self.published
            .store(self.listeners.snapshot().map(Arc::new));
        let chains = self.listeners.chains_apart();
        self.received.set_chains(MAIN_INTERNAL, chains);
        self.clusters.sweep();
        let wanted = self.clusters.wanted_secrets();
        let holds = |name: &str| self.clusters.secrets.holds(name);
        self.received.expect_secrets(&wanted, holds);
        let referred: BTreeSet<Reference> = self.listeners.referred().cloned().collect();
        self.discovered.retain(&referred);
        for kind in ByName::ALL {
            let is_referred = |name: &str| referred.contains(&(kind, name.to_owned()));
            self.received.retain(kind.resource_type(), is_referred);
        }
        self.version.send_modify(|version| *version += 1);
    }
}
