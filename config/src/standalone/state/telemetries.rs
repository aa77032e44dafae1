//! Telemetry objects by namespace, the oldest first: of those that are for a whole namespace the oldest counts.

use std::collections::BTreeMap;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::istio::telemetry::Telemetry;
use crate::standalone::state::cluster_state::ClusterState;

#[derive(Debug, Default)]
pub struct Telemetries<'a>(BTreeMap<&'a str, Vec<&'a Object<Telemetry>>>);

impl<'a> Telemetries<'a> {
    pub fn of(state: &'a ClusterState) -> Telemetries<'a> {
        let mut found = Telemetries::default();
        for object in state.telemetries.values() {
            let of_namespace = found.0.entry(object.meta.namespace.as_str());
            of_namespace.or_default().push(object);
        }
        for objects in found.0.values_mut() {
            objects.sort_by_key(|object| (object.meta.created, &object.meta.name));
        }
        found
    }

    /// The one that is for a whole namespace.
    pub fn wide(&self, namespace: &str) -> Option<&'a Object<Telemetry>> {
        let mut all = self.all(namespace);
        all.find(|object| object.spec.is_wide())
    }

    /// Those with targets.
    pub fn targeted(&self, namespace: &str) -> impl Iterator<Item = &'a Object<Telemetry>> {
        let all = self.all(namespace);
        all.filter(|object| !object.spec.targets.is_empty())
    }

    fn all(&self, namespace: &str) -> impl Iterator<Item = &'a Object<Telemetry>> {
        self.0.get(namespace).into_iter().flatten().copied()
    }
}
