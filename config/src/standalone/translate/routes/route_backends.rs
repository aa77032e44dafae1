//! Backends of routes of the Gateway API: which service each means, and by which cluster it is reached.
//!
//! A backend is a Service by its name, or, as with istiod, a `Hostname` of `networking.istio.io`: any host that the mesh knows,
//! of a Service or a ServiceEntry.

use crate::standalone::input::manifest::{ObjectMeta, ObjectName};
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::core::service::CLUSTER_DOMAIN;
use crate::standalone::kinds::gateway_api::backend_object::BackendObject;
use crate::standalone::state::mesh_service::{MeshService, Source};
use crate::standalone::translate::clusters::inbound_vip;
use crate::standalone::translate::clusters::outbound::{is_elsewhere, outbound};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::context::settings::REFERENCE_GRANTS;

/// Cluster of a backend whose kind is unknown: it doesn't exist.
const UNKNOWN_SERVICE: &str = "UnknownService";
/// Cluster of a backend that its namespace doesn't let the route have: it doesn't exist.
const NOT_GRANTED: &str = "RefNotPermitted";

/// Why a backend is nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoBackend {
    Kind,
    /// What it lacks, or has too much.
    Form(&'static str),
    /// The Service that the route may not have.
    NotGranted(ObjectName),
    /// The Service that isn't there.
    NoService(ObjectName),
    /// The Service that isn't for proxies of the waypoint's namespace.
    Hidden(ObjectName),
    NoHost,
}

impl<'a> Mesh<'a> {
    /// The service that a backend of a route of this kind, in the namespace `own`, means.
    pub(crate) fn backend(
        &self,
        backend: &BackendObject,
        kind: &str,
        own: &str,
    ) -> Result<MeshService<'a>, NoBackend> {
        if backend.is_hostname() {
            return self.host_backend(backend, kind, own);
        }
        if !backend.is_service() {
            return Err(NoBackend::Kind);
        }
        let namespace = backend.namespace.as_deref().unwrap_or(own);
        let name = ObjectName::new(namespace, &backend.name);
        if !self.is_granted(kind, own, &name) {
            return Err(NoBackend::NotGranted(name));
        }
        let Some(service) = self.state.services.get(&name) else {
            return Err(NoBackend::NoService(name));
        };
        let service = MeshService::of_service(service);
        match self.waypoint.sees(self.state, &service) {
            true => Ok(service),
            false => Err(NoBackend::Hidden(name)),
        }
    }

    fn host_backend(
        &self,
        backend: &BackendObject,
        kind: &str,
        own: &str,
    ) -> Result<MeshService<'a>, NoBackend> {
        if backend.namespace.is_some() {
            let reason = "namespace may not be set with Hostname type";
            return Err(NoBackend::Form(reason));
        }
        if backend.port.is_none() {
            return Err(NoBackend::Form("port is required in backendRef"));
        }
        let service = self.services_of_host(&backend.name).into_iter().next();
        let service = service.ok_or(NoBackend::NoHost)?;
        match service.source {
            // By whatever name: a grant is asked for as for the Service.
            Source::Service(object) if !self.is_granted(kind, own, &object.name()) => {
                Err(NoBackend::NotGranted(object.name()))
            }
            Source::Service(_) | Source::Entry(_) => Ok(service),
        }
    }

    /// The cluster of a backend that a route of this kind in the namespace `own` has for the service `parent`. What doesn't exist,
    /// or isn't granted, gets a name that no cluster has: its share answers 500.
    pub(super) fn backend_cluster(
        &self,
        backend: &BackendObject,
        kind: &str,
        own: &str,
        parent: &str,
    ) -> String {
        let port = backend.port.unwrap_or_default();
        let service = match self.backend(backend, kind, own) {
            Ok(service) => service,
            Err(NoBackend::Kind | NoBackend::Form(_)) => return UNKNOWN_SERVICE.to_owned(),
            Err(NoBackend::NotGranted(_)) => return NOT_GRANTED.to_owned(),
            Err(NoBackend::NoService(name) | NoBackend::Hidden(name)) => {
                let hostname = format!("{}.{}.{CLUSTER_DOMAIN}", name.name, name.namespace);
                return inbound_vip(port, "http", &hostname);
            }
            Err(NoBackend::NoHost) => return inbound_vip(port, "http", &backend.name),
        };
        let hostname = &service.hostname;
        if !self.waypoint.owns(hostname) || is_elsewhere(&service, parent) {
            return outbound(port, hostname);
        }
        let protocol = service.port(port).map(|port| port.protocol);
        let http = protocol.is_none_or(|p| p.is_http() || p == Protocol::Unknown);
        inbound_vip(port, if http { "http" } else { "tcp" }, hostname)
    }

    /// Services that the routes of a service send to or mirror to.
    pub(crate) fn route_backends(&self, service: &MeshService<'_>) -> Vec<MeshService<'a>> {
        let mut found: Vec<MeshService<'a>> = Vec::new();
        let mut add = |kind: &str, meta: &ObjectMeta, backend: &BackendObject| {
            found.extend(self.backend(backend, kind, &meta.namespace).ok());
        };
        for object in self.attached(service) {
            let kind = object.spec.kind.name();
            for rule in &object.spec.rules {
                let named = rule.backends.iter().map(|backend| &backend.object);
                let mirrored = rule.mirrors().map(|mirror| &mirror.backend_ref);
                named
                    .chain(mirrored)
                    .for_each(|b| add(kind, &object.meta, b));
            }
        }
        for object in self.streams_of(service) {
            let kind = object.spec.kind.name();
            for backend in object.spec.rules.iter().flat_map(|rule| &rule.backends) {
                add(kind, &object.meta, &backend.object);
            }
        }
        found
    }

    /// The host of a backend, and its namespace.
    pub(super) fn host_of(&self, backend: &BackendObject, own: &str) -> Option<(String, String)> {
        if backend.is_hostname() {
            let service = self.services_of_host(&backend.name).into_iter().next()?;
            return Some((service.hostname, service.namespace.to_owned()));
        }
        let namespace = backend.namespace.as_deref().unwrap_or(own);
        let host = format!("{}.{namespace}.{CLUSTER_DOMAIN}", backend.name);
        backend.is_service().then(|| (host, namespace.to_owned()))
    }

    /// Whether a route may have a Service as a backend. A grant is asked for only where the user wants it: istiod asks for none.
    fn is_granted(&self, kind: &str, namespace: &str, service: &ObjectName) -> bool {
        if namespace == service.namespace || !self.is_on(REFERENCE_GRANTS) {
            return true;
        }
        let grants = self.state.reference_grants.values();
        let mut there = grants.filter(|grant| grant.meta.namespace == service.namespace);
        let found = there.find(|grant| grant.spec.lets(kind, namespace, &service.name));
        found.inspect(|grant| self.effects.mark(*grant)).is_some()
    }
}
