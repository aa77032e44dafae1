//! What the source of configuration has given, as the admin port shows it: the very bytes that are in force,
//! by type and name, with the version they came in, and what was refused of them since.
//!
//! The store writes it and the admin port reads it. Bytes are shared with the store, not copied. Workloads
//! that are in force aren't kept here: Envoy's dump has no place for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use waypoint_filters::xds::rejected::Rejected;

use crate::model::cluster::slot::ClusterSlot;
use crate::resource::{Resource, ResourceType};

/// Of the reasons why chains don't serve, this much is kept.
const MAX_REASONS: usize = 4096;

/// The response that resources came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub version: String,
    pub at: SystemTime,
}

/// One resource as it stands.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// `None`: no version was ever accepted.
    pub in_force: Option<InForce>,
    /// Why the version that came last isn't in force.
    pub refused: Option<RefusedVersion>,
}

/// The version of a resource that is in use.
#[derive(Clone, Debug)]
pub struct InForce {
    pub body: Bytes,
    /// Of a listener whose chains aren't all those of its body.
    pub chains: Option<Arc<Chains>>,
    pub response: Arc<Response>,
}

/// A version of a resource that isn't.
#[derive(Clone, Debug)]
pub struct RefusedVersion {
    pub rejected: Rejected,
    pub response: Arc<Response>,
}

/// The filter chains of a listener, some of which don't serve as they were received last.
#[derive(Debug, Default)]
pub struct Chains {
    /// By name.
    pub serving: HashMap<String, Bytes>,
    /// Why the others don't.
    pub reasons: String,
}

impl Chains {
    pub(crate) fn new(
        serving: HashMap<String, Bytes>,
        reasons: impl Iterator<Item = String>,
    ) -> Chains {
        let mut text = String::new();
        let mut left_out = 0;
        for reason in reasons {
            if text.len() + reason.len() > MAX_REASONS && !text.is_empty() {
                left_out += 1;
                continue;
            }
            let separator = if text.is_empty() { "" } else { "; " };
            text.push_str(&format!("{separator}{reason}"));
        }
        if left_out > 0 {
            text.push_str(&format!("; and {left_out} more"));
        }
        Chains {
            serving,
            reasons: text,
        }
    }
}

/// How many updates of a type were accepted whole, and how many were not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Updates {
    pub accepted: u64,
    pub refused: u64,
}

/// What has been received; clones share it.
#[derive(Clone, Default)]
pub struct Received {
    tables: Arc<Mutex<Tables>>,
}

#[derive(Default)]
struct Tables {
    entries: BTreeMap<ResourceType, BTreeMap<Arc<str>, Entry>>,
    updates: BTreeMap<ResourceType, Updates>,
    clusters: BTreeMap<Arc<str>, Arc<ClusterSlot>>,
}

impl Received {
    /// All resources of a type, by name.
    pub fn entries(&self, kind: ResourceType) -> Vec<(Arc<str>, Entry)> {
        let tables = self.tables.lock();
        let entries = tables.entries.get(&kind).into_iter().flatten();
        entries
            .map(|(name, entry)| (name.clone(), entry.clone()))
            .collect()
    }

    /// The clusters in force, by name.
    pub fn clusters(&self) -> Vec<Arc<ClusterSlot>> {
        self.tables.lock().clusters.values().cloned().collect()
    }

    pub fn updates(&self, kind: ResourceType) -> Updates {
        let tables = self.tables.lock();
        tables.updates.get(&kind).copied().unwrap_or_default()
    }

    /// Everything whose last version was refused.
    pub(crate) fn rejected(&self) -> Vec<Rejected> {
        let tables = self.tables.lock();
        let entries = tables.entries.values().flat_map(BTreeMap::values);
        let refused = entries.filter_map(|entry| entry.refused.as_ref());
        refused.map(|refused| refused.rejected.clone()).collect()
    }

    /// Counts an update of a type.
    pub(crate) fn count(&self, kind: ResourceType, accepted: bool) {
        let mut tables = self.tables.lock();
        let updates = tables.updates.entry(kind).or_default();
        match accepted {
            true => updates.accepted += 1,
            false => updates.refused += 1,
        }
    }

    /// A resource is in force.
    pub(crate) fn accept(&self, resource: Resource, response: &Arc<Response>) {
        let Resource { kind, name, body } = resource;
        let mut tables = self.tables.lock();
        let entries = tables.entries.entry(kind).or_default();
        let entry = entries.entry(name.into()).or_default();
        entry.refused = None;
        // What is sent again unchanged is as old as it was.
        let known = entry.in_force.as_ref();
        if known.is_none_or(|known| known.body != body) {
            entry.in_force = Some(InForce {
                body,
                chains: None,
                response: response.clone(),
            });
        }
    }

    /// A version of a resource was refused; the one before it stays.
    pub(crate) fn refuse(&self, kind: ResourceType, rejected: Rejected, response: &Arc<Response>) {
        let mut tables = self.tables.lock();
        let entries = tables.entries.entry(kind).or_default();
        let entry = entries
            .entry(rejected.resource.as_str().into())
            .or_default();
        entry.refused = Some(RefusedVersion {
            rejected,
            response: response.clone(),
        });
    }

    /// How the chains of a listener serve, where not as its body says.
    pub(crate) fn set_chains(&self, listener: &str, chains: Option<Chains>) {
        let mut tables = self.tables.lock();
        let listeners = tables.entries.get_mut(&ResourceType::Listener);
        let entry = listeners.and_then(|listeners| listeners.get_mut(listener));
        if let Some(in_force) = entry.and_then(|entry| entry.in_force.as_mut()) {
            in_force.chains = chains.map(Arc::new);
        }
    }

    /// A cluster that is in force.
    pub(crate) fn set_cluster(&self, slot: Arc<ClusterSlot>) {
        self.tables.lock().clusters.insert(slot.name.clone(), slot);
    }

    /// Drops resources of a type that nobody needs.
    pub(crate) fn retain(&self, kind: ResourceType, needed: impl Fn(&str) -> bool) {
        if let Some(entries) = self.tables.lock().entries.get_mut(&kind) {
            entries.retain(|name, _| needed(name));
        }
    }

    /// Which secrets are asked for. Of others those stay that are held.
    pub(crate) fn expect_secrets(&self, asked: &BTreeSet<String>, held: impl Fn(&str) -> bool) {
        let mut tables = self.tables.lock();
        let entries = tables.entries.entry(ResourceType::Secret).or_default();
        entries.retain(|name, _| asked.contains(&**name) || held(name));
        for name in asked {
            if !entries.contains_key(name.as_str()) {
                entries.insert(name.as_str().into(), Entry::default());
            }
        }
    }

    pub(crate) fn remove(&self, kind: ResourceType, name: &str) {
        let mut tables = self.tables.lock();
        if let Some(entries) = tables.entries.get_mut(&kind) {
            entries.remove(name);
        }
        if kind == ResourceType::Cluster {
            tables.clusters.remove(name);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use waypoint_filters::xds::rejected::Refusal;

    use super::*;
    use ResourceType::Listener;

    fn response(n: u64) -> Arc<Response> {
        Arc::new(Response {
            version: format!("v{n}"),
            at: UNIX_EPOCH + Duration::from_secs(n),
        })
    }

    fn accept(received: &Received, n: u64, body: &'static [u8]) -> Entry {
        let resource = Resource {
            kind: Listener,
            name: "l".into(),
            body: Bytes::from_static(body),
        };
        received.accept(resource, &response(n));
        received.entries(Listener).pop().unwrap().1
    }

    #[test]
    fn a_refused_version_leaves_the_last_good_one_and_the_reason() {
        let received = Received::default();
        accept(&received, 1, b"good");
        let rejected = Refusal::unsupported("reverse_connection").of("l");
        received.refuse(Listener, rejected.clone(), &response(2));
        let (_, entry) = received.entries(Listener).pop().unwrap();
        let (in_force, refused) = (entry.in_force.unwrap(), entry.refused.unwrap());
        assert_eq!(&in_force.body[..], b"good");
        assert_eq!(in_force.response.version, "v1");
        assert_eq!(refused.response.version, "v2");
        assert_eq!(received.rejected(), [rejected]);
        // The good version comes again: it is as old as it was.
        let entry = accept(&received, 3, b"good");
        assert!(entry.refused.is_none() && received.rejected().is_empty());
        assert_eq!(entry.in_force.unwrap().response.version, "v1");
        received.remove(Listener, "l");
        assert!(received.entries(Listener).is_empty());
    }

    #[test]
    fn reasons_are_bounded_and_the_rest_is_counted() {
        let reasons = (0..100).map(|_| "ü".repeat(500));
        let chains = Chains::new(HashMap::new(), reasons);
        assert!(chains.reasons.len() < MAX_REASONS + 30);
        assert!(
            chains.reasons.ends_with("; and 96 more"),
            "{}",
            chains.reasons
        );
    }
}
