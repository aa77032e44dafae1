//! Labels that choose a waypoint, and why a service isn't this waypoint's.

use crate::standalone::input::manifest::resource;
use crate::standalone::input::manifest::{Object, ObjectMeta, ObjectName};
use crate::standalone::input::near::meant;
use crate::standalone::input::problem::Origin;
use crate::standalone::state::ownership::{
    Enrolment, Labelled, USE_WAYPOINT, USE_WAYPOINT_NAMESPACE,
};
use crate::standalone::translate::no_effect::{Telling, Why};

impl Telling<'_, '_> {
    /// Labels of namespaces that lead nowhere. Those of other objects are told with the objects.
    pub(super) fn labels(&mut self) {
        let mesh = self.mesh;
        for (meta, origin) in mesh.state.namespaces_and_origins() {
            let named = meta.label(USE_WAYPOINT).filter(|name| *name != "none");
            if let Some(name) = named {
                let other = meta.label(USE_WAYPOINT_NAMESPACE).unwrap_or(&meta.name);
                let wanted = ObjectName::new(other, name);
                if let Some(reason) = self.missing_gateway(&wanted) {
                    self.label(meta, "Namespace", origin, reason);
                } else if wanted == mesh.waypoint.gateway.name() {
                    let allowed = &mesh.waypoint.gateway.spec.allowed;
                    let own = &mesh.waypoint.gateway.meta.namespace;
                    if !allowed.admit(own, &meta.name, Some(&meta.labels)) {
                        self.label(meta, "Namespace", origin, not_admitted(&wanted));
                    }
                }
            }
            self.misplaced_labels("Namespace", meta, origin);
        }
        for pod in mesh.state.pods.values() {
            self.workload_label("Pod", "pods", pod);
        }
        for machine in mesh.state.workload_entries.values() {
            self.workload_label("WorkloadEntry", "WorkloadEntries", machine);
        }
        let gateway = mesh.waypoint.gateway;
        if gateway.meta.annotation("istio.io/waypoint-for").is_some() {
            let reason = "is a label, not an annotation".to_owned();
            let field = "metadata.annotations[istio.io/waypoint-for]";
            self.part("Gateway", gateway, field, Why::Mistake(reason));
        }
    }

    /// The label of a workload, where it leads to no waypoint.
    fn workload_label<T>(&self, kind: &str, all: &str, workload: &Object<T>) {
        let (mesh, meta) = (self.mesh, &workload.meta);
        let own = mesh.waypoint.gateway.name();
        let (found, labelled) = mesh.waypoint.workload_enrolment(mesh.state, meta);
        let reason = match found {
            Enrolment::OtherTraffic => Some(format!(
                "Gateway {own} takes no {all} without istio.io/waypoint-for: workload or all"
            )),
            Enrolment::Other(name) => self.missing_gateway(&name),
            Enrolment::NotAdmitted => Some(not_admitted(&own)),
            Enrolment::Own | Enrolment::Unlabelled | Enrolment::OptedOut | Enrolment::OfGateway => {
                None
            }
        };
        if let (Some(reason), Labelled::Object) = (reason, labelled) {
            self.label(meta, kind, &workload.origin, reason);
        }
        self.misplaced_labels(kind, meta, &workload.origin);
    }

    /// Names that were written where nobody looks for them.
    pub(super) fn misplaced_labels(&self, kind: &str, meta: &ObjectMeta, origin: &Origin) {
        for name in [USE_WAYPOINT, USE_WAYPOINT_NAMESPACE] {
            if meta.annotation(name).is_some() {
                let field = format!("metadata.annotations[{name}]");
                let reason = "is a label, not an annotation".to_owned();
                self.no_effect(resource(kind, meta), origin, &field, reason);
            }
        }
        if meta.label(USE_WAYPOINT_NAMESPACE).is_some() && meta.label(USE_WAYPOINT).is_none() {
            let field = format!("metadata.labels[{USE_WAYPOINT_NAMESPACE}]");
            let reason = format!("says nothing without {USE_WAYPOINT} beside it");
            self.no_effect(resource(kind, meta), origin, &field, reason);
        }
    }

    /// Why a Service or ServiceEntry is not this waypoint's; `None`: it is.
    pub(super) fn not_enrolled(&self, meta: &ObjectMeta) -> Option<Why> {
        let own = self.mesh.waypoint.gateway.name();
        let (found, labelled) = self.mesh.waypoint.enrolment(self.mesh.state, meta);
        let why = match found {
            Enrolment::Own => return None,
            Enrolment::Unlabelled => {
                Why::Elsewhere(format!("no label {USE_WAYPOINT} on it or its namespace"))
            }
            Enrolment::OptedOut => Why::Elsewhere(format!("its label {USE_WAYPOINT} is none")),
            Enrolment::OfGateway => Why::Elsewhere("belongs to a gateway".to_owned()),
            Enrolment::Other(name) => match (self.missing_gateway(&name), labelled) {
                (Some(reason), Labelled::Object) => Why::Mistake(reason),
                _ => Why::Elsewhere(format!("uses waypoint {name}")),
            },
            Enrolment::NotAdmitted => match labelled {
                Labelled::Object => Why::Mistake(not_admitted(&own)),
                Labelled::Namespace => Why::Elsewhere(not_admitted(&own)),
            },
            Enrolment::OtherTraffic => {
                let reason = format!(
                    "Gateway {own} takes no services: its istio.io/waypoint-for is {}",
                    self.mesh.waypoint.traffic.label()
                );
                match labelled {
                    Labelled::Object => Why::Mistake(reason),
                    Labelled::Namespace => Why::Elsewhere(reason),
                }
            }
        };
        Some(why)
    }

    /// The label of an object that chooses a waypoint.
    fn label(&self, meta: &ObjectMeta, kind: &str, origin: &Origin, reason: String) {
        let field = format!("metadata.labels[{USE_WAYPOINT}]");
        self.no_effect(resource(kind, meta), origin, &field, reason);
    }

    fn missing_gateway(&self, wanted: &ObjectName) -> Option<String> {
        let gateways = &self.mesh.state.gateways;
        if gateways.contains_key(wanted) {
            return None;
        }
        let known = gateways.keys();
        let known = known.filter(|known| known.namespace == wanted.namespace);
        let meant = meant(&wanted.name, known.map(|known| known.name.as_str()));
        Some(format!("no Gateway {wanted} is among the manifests{meant}"))
    }
}

fn not_admitted(gateway: &ObjectName) -> String {
    format!("Gateway {gateway} doesn't admit this namespace: allowedRoutes of its listener")
}
