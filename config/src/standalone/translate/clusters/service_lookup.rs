//! Services that the waypoint itself asks, found by the host that a setting names.
//!
//! As with istiod the host is a whole one (`ratings.default.svc.cluster.local`), alone or as `namespace/host`.

use crate::standalone::input::manifest::ObjectName;
use crate::standalone::kinds::core::service::CLUSTER_DOMAIN;
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Resolution};
use crate::standalone::translate::context::Mesh;

/// Ports that a line names.
const NAMED: usize = 8;

impl<'a> Mesh<'a> {
    /// The service that `host` or `namespace/host` means.
    pub(crate) fn service_named(&self, setting: &str) -> Result<MeshService<'a>, String> {
        let (namespace, host) = match setting.split_once('/') {
            Some((namespace, host)) => (Some(namespace), host),
            None => (None, setting),
        };
        let mut found = self.services_of_host(host);
        found.retain(|service| namespace.is_none_or(|wanted| service.namespace == wanted));
        let first = found.first().cloned().ok_or_else(|| {
            format!("no Service and no ServiceEntry that is honoured has the host {setting:?}")
        })?;
        match found
            .iter()
            .find(|other| other.namespace != first.namespace)
        {
            Some(other) => Err(format!(
                "{host:?} is a host in {:?} and in {:?}: write namespace/host",
                first.namespace, other.namespace
            )),
            None => Ok(first),
        }
    }

    /// Those that the waypoint knows of: Kubernetes' service before those of ServiceEntries, the older of these before the younger.
    pub(crate) fn services_of_host(&self, host: &str) -> Vec<MeshService<'a>> {
        let state = self.state;
        let in_kubernetes = host
            .strip_suffix(CLUSTER_DOMAIN)
            .and_then(|rest| rest.strip_suffix('.')?.split_once('.'))
            .and_then(|(name, namespace)| {
                let name = ObjectName::new(namespace, name);
                state.services.get(&name)
            });
        let entries = state.service_entries.values();
        let named = entries.filter(|entry| entry.spec.hosts.iter().any(|own| own == host));
        let mut of_entries: Vec<MeshService<'a>> = named.flat_map(MeshService::of_entry).collect();
        of_entries.retain(|service| service.hostname == host);
        of_entries.sort_by(|a, b| a.order().cmp(&b.order()));
        let first = in_kubernetes.map(MeshService::of_service);
        let all = first.into_iter().chain(of_entries);
        all.filter(|found| self.waypoint.sees(state, found))
            .collect()
    }
}

/// The port of a service that has a cluster to be asked through.
pub(crate) fn port_to_ask<'s>(
    service: &'s MeshService<'_>,
    number: u16,
) -> Result<&'s MeshPort, String> {
    let host = &service.hostname;
    if service.resolution() == Resolution::None {
        return Err(format!("{host} is an alias (ExternalName)"));
    }
    if service.resolution() == Resolution::Passthrough && service.is_entry() {
        return Err(format!(
            "{host} has no endpoints of its own (resolution NONE)"
        ));
    }
    service.port(number).ok_or_else(|| {
        let ports = service.ports.iter().take(NAMED);
        let known: Vec<String> = ports.map(|port| port.number.to_string()).collect();
        format!(
            "{host} has no TCP port {number}; it has {}",
            known.join(", ")
        )
    })
}
