//! ServiceEntries that have a host in common and don't agree on what a port of it speaks.

use std::collections::BTreeMap;

use crate::standalone::input::manifest::{Object, resource};
use crate::standalone::kinds::istio::service_entry::ServiceEntry;
use crate::standalone::state::exports;
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::no_effect::{Telling, Why};

const KIND: &str = "ServiceEntry";

impl Telling<'_, '_> {
    /// Told of the younger one.
    pub(super) fn same_hosts(&mut self) {
        let mesh = self.mesh;
        let own = &mesh.waypoint.gateway.meta.namespace;
        let seen = mesh.state.service_entries.values();
        let mut entries: Vec<&Object<ServiceEntry>> = seen
            .filter(|entry| exports::sees_entry(mesh.state, own, entry))
            .collect();
        entries.sort_by_key(|entry| (entry.meta.created, entry.name()));
        let mut first = BTreeMap::new();
        for entry in entries {
            for service in MeshService::of_entry(entry) {
                for (index, port) in service.ports.iter().enumerate() {
                    let key = (service.hostname.clone(), port.number);
                    let (protocol, other) = *first.entry(key).or_insert((port.protocol, entry));
                    if protocol == port.protocol || other.origin == entry.origin {
                        continue;
                    }
                    let reason = format!(
                        "port {} of {} speaks {:?} here and {protocol:?} in {}, which is older: give them the same protocol",
                        port.number,
                        service.hostname,
                        port.protocol,
                        resource(KIND, &other.meta),
                    );
                    let field = format!("spec.ports[{index}].protocol");
                    self.part(KIND, entry, &field, Why::Mistake(reason));
                }
            }
        }
    }
}
