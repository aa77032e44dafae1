//! What is measured, logged and traced on a chain: Telemetry objects, merged as istiod merges them for a waypoint, and
//! MeshConfig where they say nothing.
//!
//! For a chain these count, each above those before: the one for the whole root namespace, the one for the waypoint's
//! namespace, the one for the service's, and those whose targets name what the chain is of. These last are looked for in
//! the service's namespace alone (without a service in the waypoint's), as istiod does: a Telemetry for a
//! Gateway says nothing of services of other namespaces.

mod access_logs;
mod log_providers;
mod metrics;
mod tracers;
mod tracing;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::core::extension_provider::ExtensionProvider;
use crate::standalone::kinds::istio::telemetry::Telemetry;
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::clusters::outbound::outbound;
use crate::standalone::translate::clusters::service_lookup::port_to_ask;
use crate::standalone::translate::context::Mesh;

/// Who serves a provider.
pub(crate) struct Server {
    pub(crate) hostname: String,
    pub(crate) cluster: String,
}

impl<'a> Mesh<'a> {
    /// The objects that count for a service's chains, or for all else of the waypoint.
    fn telemetries(&self, service: Option<&MeshService<'_>>) -> Vec<&'a Object<Telemetry>> {
        let root = self.config.root_namespace.as_str();
        let own = self.waypoint.gateway.meta.namespace.as_str();
        let of_service = service.map_or(own, |service| service.namespace);
        let mut wide = vec![root, own, of_service];
        let mut seen = Vec::new();
        wide.retain(|namespace| {
            let new = !seen.contains(namespace);
            seen.push(*namespace);
            new
        });
        let wide = wide.into_iter().filter_map(|n| self.telemetries.wide(n));
        let mut found: Vec<_> = wide.collect();
        for object in self.telemetries.targeted(of_service) {
            let (targets, namespace) = (&object.spec.targets, &object.meta.namespace);
            if self.targets_chain(targets, namespace, service) {
                found.push(object);
            }
        }
        found.iter().for_each(|object| self.effects.mark(*object));
        found
    }

    /// Who serves a provider; `None`: it can't be told anything, and `no_effect` says why.
    fn server(&self, provider: &ExtensionProvider) -> Option<Server> {
        self.server_of(provider).ok()
    }

    /// An error is why it can't be told anything.
    pub(crate) fn server_of(&self, provider: &ExtensionProvider) -> Result<Server, String> {
        let (service, port) = provider.service().unwrap_or_default();
        let service = self.service_named(service)?;
        // Whatever was admitted is a port.
        let port = u16::try_from(port).unwrap_or(0);
        port_to_ask(&service, port)?;
        Ok(Server {
            cluster: outbound(port, &service.hostname),
            hostname: service.hostname,
        })
    }
}

/// A variable of the process's environment.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
