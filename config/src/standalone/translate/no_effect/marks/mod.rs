//! Labels and annotations beside those that choose a waypoint: what istiod reads of them and a waypoint here doesn't, and what
//! nobody reads.

mod annotations;

use std::collections::BTreeSet;

use crate::standalone::input::manifest::ObjectMeta;
use crate::standalone::input::manifest::resource;
use crate::standalone::input::near::meant;
use crate::standalone::input::problem::Origin;
use crate::standalone::kinds::traffic_policy::traffic_distribution::{
    ANNOTATION, TrafficDistribution, WORDS,
};
use crate::standalone::state::mesh_endpoint::drains;
use crate::standalone::state::mesh_service::Source;
use crate::standalone::translate::no_effect::destination_rules::UNKNOWN_PLACE;
use crate::standalone::translate::no_effect::{Telling, Why};

pub(super) const DRAINS: &str = "with the label istio.io/draining it takes no requests";

impl Telling<'_, '_> {
    pub(super) fn marks(&mut self) {
        let mesh = self.mesh;
        let mut inherits = BTreeSet::new();
        for service in &mesh.waypoint.services {
            let (kind, meta, origin, asks) = match service.source {
                Source::Service(object) => {
                    let asks = object.spec.traffic_distribution.is_some();
                    if asks && !mesh.place.is_known() {
                        let name = resource("Service", &object.meta);
                        let reason = UNKNOWN_PLACE.to_owned();
                        self.no_effect(name, &object.origin, "spec.trafficDistribution", reason);
                    }
                    ("Service", &object.meta, &object.origin, asks)
                }
                Source::Entry(entry) => ("ServiceEntry", &entry.meta, &entry.origin, false),
            };
            if !asks && !self.distribution(kind, meta, origin) {
                inherits.insert(service.namespace);
            }
        }
        for (meta, origin) in mesh.state.namespaces_and_origins() {
            if inherits.contains(meta.name.as_str()) {
                self.distribution("Namespace", meta, origin);
            }
        }
        self.classes_and_pods();
        self.annotations();
    }

    fn classes_and_pods(&mut self) {
        let mesh = self.mesh;
        for class in mesh.state.gateway_classes.keys() {
            if *class != mesh.waypoint.gateway.spec.class {
                self.aside(
                    "GatewayClass",
                    "not the class of this waypoint",
                    class.clone(),
                );
            }
        }
        for pod in mesh.state.pods.values() {
            if drains(&pod.meta.labels) {
                self.part("Pod", pod, "", Why::Elsewhere(DRAINS.to_owned()));
            }
        }
    }

    /// Which endpoints are preferred; whether the object says so.
    fn distribution(&self, kind: &str, meta: &ObjectMeta, origin: &Origin) -> bool {
        if meta.label(ANNOTATION).is_some() {
            let field = format!("metadata.labels[{ANNOTATION}]");
            let reason = "is an annotation, not a label".to_owned();
            self.no_effect(resource(kind, meta), origin, &field, reason);
        }
        let Some(value) = meta
            .annotation(ANNOTATION)
            .filter(|value| !value.is_empty())
        else {
            return false;
        };
        let field = format!("metadata.annotations[{ANNOTATION}]");
        let reason = if TrafficDistribution::parse(value).is_none() {
            let meant = meant(value, WORDS);
            let known = WORDS.join(", ");
            Some(format!("{value:?} is none of {known}{meant}"))
        } else {
            (!self.mesh.place.is_known()).then(|| UNKNOWN_PLACE.to_owned())
        };
        if let Some(reason) = reason {
            self.no_effect(resource(kind, meta), origin, &field, reason);
        }
        true
    }
}
