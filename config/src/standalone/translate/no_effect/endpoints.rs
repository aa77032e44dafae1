//! EndpointSlices and Endpoints that no service takes.

use std::collections::BTreeMap;

use crate::standalone::input::manifest::{Object, ObjectName};
use crate::standalone::kinds::core::endpoint_slice::EndpointSlice;
use crate::standalone::kinds::core::endpoints::Endpoints;
use crate::standalone::kinds::core::service::Service;
use crate::standalone::state::mesh_service::Source;
use crate::standalone::translate::no_effect::{Telling, Why};

impl Telling<'_, '_> {
    pub(super) fn endpoints(&mut self) {
        let mesh = self.mesh;
        let services = mesh.waypoint.services.iter();
        let own: BTreeMap<ObjectName, &Object<Service>> = services
            .filter_map(|service| match service.source {
                Source::Service(object) => Some((object.name(), object)),
                Source::Entry(_) => None,
            })
            .collect();
        for slice in mesh.state.endpoint_slices.values() {
            if let Some((field, why)) = self.idle_slice(slice) {
                self.part("EndpointSlice", slice, field, why);
            }
            let service = slice.spec.service.as_ref();
            let service = service.map(|name| ObjectName::new(&slice.meta.namespace, name));
            if let Some(service) = service.and_then(|name| own.get(&name)) {
                self.conditions(slice, service);
            }
        }
        for endpoints in mesh.state.endpoints.values() {
            if let Some(why) = self.idle_endpoints(endpoints) {
                self.part("Endpoints", endpoints, "", why);
            }
        }
    }

    /// Conditions beside `ready`, of the slices of an own service: they say less than they seem to.
    fn conditions(&mut self, slice: &Object<EndpointSlice>, service: &Object<Service>) {
        for (index, endpoint) in slice.spec.endpoints.iter().enumerate() {
            let conditions = endpoint.conditions;
            let idle = match (conditions.ready, conditions.serving, conditions.terminating) {
                (Some(false), Some(true), Some(true)) => {
                    let reason =
                        "endpoints that terminate and serve until they have ended take no requests";
                    self.part(
                        "EndpointSlice",
                        slice,
                        "",
                        Why::Elsewhere(reason.to_owned()),
                    );
                    continue;
                }
                // What the controller writes where readiness doesn't count.
                _ if service.spec.publish_not_ready => continue,
                (Some(false), ..) => continue,
                (_, Some(false), _) => "serving",
                (_, _, Some(true)) => "terminating",
                _ => continue,
            };
            let reason = "says nothing without ready: false beside it: the endpoint takes requests";
            let field = format!("endpoints[{index}].conditions.{idle}");
            self.part(
                "EndpointSlice",
                slice,
                &field,
                Why::Mistake(reason.to_owned()),
            );
        }
    }

    fn idle_slice(&self, slice: &Object<EndpointSlice>) -> Option<(&'static str, Why)> {
        let mistake = |field, reason: String| Some((field, Why::Mistake(reason)));
        if slice.spec.host_names {
            let reason = "FQDN is not used by services of Kubernetes".to_owned();
            return mistake("addressType", reason);
        }
        let Some(service) = &slice.spec.service else {
            let reason = "without the label kubernetes.io/service-name it is no service's";
            return mistake("metadata.labels", reason.to_owned());
        };
        let name = ObjectName::new(&slice.meta.namespace, service);
        let Some(service) = self.mesh.state.services.get(&name) else {
            return mistake("metadata.labels", self.missing_service(&name));
        };
        let used = slice.spec.ports.iter().any(|port| {
            let mut ports = service.spec.ports.iter();
            ports.any(|own| own.name == port.name && own.transport == port.transport)
        });
        if used || service.spec.ports.is_empty() || slice.spec.endpoints.is_empty() {
            return None;
        }
        let ports = service.spec.ports.iter();
        let ports = ports.map(|own| format!("{:?} ({})", own.name, own.transport.name()));
        let ports: Vec<String> = ports.collect();
        let reason = format!(
            "none has the name and the protocol of a port of Service {name}: {}",
            ports.join(", ")
        );
        mistake("ports", reason)
    }

    fn idle_endpoints(&self, endpoints: &Object<Endpoints>) -> Option<Why> {
        let name = endpoints.name();
        let state = self.mesh.state;
        if let Some(reason) = endpoints.spec.not_mirrored {
            return Some(Why::Elsewhere(reason.to_owned()));
        }
        let Some(service) = state.services.get(&name) else {
            return Some(Why::Mistake(self.missing_service(&name)));
        };
        if state.slices_of(&name).next().is_some() {
            let reason = "EndpointSlices of their services stand above them".to_owned();
            return Some(Why::Elsewhere(reason));
        }
        let reason =
            "the Service has a selector: its pods are its endpoints, whatever Endpoints say";
        (!service.spec.selector.is_empty()).then(|| Why::Mistake(reason.to_owned()))
    }
}
