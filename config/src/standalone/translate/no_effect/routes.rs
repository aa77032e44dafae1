//! HTTPRoutes and GRPCRoutes: parents that are nobody here, matches that no request reaches, backends that aren't there.

use crate::standalone::input::manifest::resource;
use crate::standalone::input::manifest::{Object, ObjectMeta, ObjectName};
use crate::standalone::input::near::meant;
use crate::standalone::kinds::gateway_api::backend_object::BackendObject;
use crate::standalone::kinds::gateway_api::http_route::{HttpRoute, ParentRef};
use crate::standalone::state::mesh_service::{MeshPort, Resolution, Source};
use crate::standalone::translate::context::settings::CONSUMER_ROUTES;
use crate::standalone::translate::no_effect::reach::{Reaches, carries_http};
use crate::standalone::translate::no_effect::{Telling, Why};
use crate::standalone::translate::routes::http_routes::is_parent;
use crate::standalone::translate::routes::route_backends::NoBackend;

const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// What routes are for.
#[derive(Clone, Copy)]
pub(super) enum Carried {
    Http,
    /// Connections whose bytes nobody looks into.
    Streams,
}

impl Carried {
    fn is_by(self, port: &MeshPort) -> bool {
        match self {
            Carried::Http => carries_http(port),
            Carried::Streams => !port.protocol.is_http(),
        }
    }

    fn missing(self) -> &'static str {
        match self {
            Carried::Http => "no HTTP",
            Carried::Streams => "nothing but HTTP",
        }
    }
}

impl Telling<'_, '_> {
    pub(super) fn routes(&mut self, reaches: &Reaches) {
        let mesh = self.mesh;
        for route in mesh.state.routes() {
            let kind = route.spec.kind.name();
            self.without_parents(
                kind,
                route,
                &route.spec.parents,
                route.spec.default_gateways,
            );
            if route.spec.rules.is_empty() {
                let reason = "is empty: nothing is routed".to_owned();
                self.part(kind, route, "spec.rules", Why::Mistake(reason));
                continue;
            }
            let mut attached = false;
            for (index, parent) in route.spec.parents.iter().enumerate() {
                if mesh.effects.shows(parent) {
                    attached = true;
                } else {
                    let why = self.no_parent(&route.meta, parent, Carried::Http);
                    self.part(
                        route.spec.kind.name(),
                        route,
                        &format!("spec.parentRefs[{index}]"),
                        why,
                    );
                }
            }
            if attached {
                self.attached(route, reaches);
            }
        }
    }

    /// A route that is attached to nothing.
    pub(super) fn without_parents<T>(
        &mut self,
        kind: &'static str,
        route: &Object<T>,
        parents: &[ParentRef],
        default_gateways: bool,
    ) {
        let (field, reason) = if default_gateways {
            let reason = "istiod knows no default Gateways: a route is attached by parentRefs";
            ("spec.useDefaultGateways", reason)
        } else if parents.is_empty() {
            let reason = "is empty: the route is attached to nothing";
            ("spec.parentRefs", reason)
        } else {
            return;
        };
        self.part(kind, route, field, Why::Mistake(reason.to_owned()));
    }

    /// A route that has an effect: what of it hasn't.
    fn attached(&mut self, route: &Object<HttpRoute>, reaches: &Reaches) {
        if route.spec.has_hostnames {
            let reason = "play no part for a route of a Service: address and port have chosen it, whatever the Host";
            self.part(
                route.spec.kind.name(),
                route,
                "spec.hostnames",
                Why::Mistake(reason.to_owned()),
            );
        }
        for (index, rule) in route.spec.rules.iter().enumerate() {
            let hidden = rule.matches.iter().map(|found| reaches.hidden(found));
            let hidden: Vec<Option<String>> = hidden.collect();
            let all = hidden.iter().all(Option::is_some);
            for (position, reason) in hidden.into_iter().enumerate() {
                let Some(reason) = reason else { continue };
                let field = match all {
                    true => format!("spec.rules[{index}]"),
                    false => format!("spec.rules[{index}].matches[{position}]"),
                };
                self.part(route.spec.kind.name(), route, &field, Why::Mistake(reason));
                if all {
                    break;
                }
            }
            if !all {
                self.backends(route, index);
            }
        }
    }

    /// Why a parent has no effect.
    pub(super) fn no_parent(&self, meta: &ObjectMeta, parent: &ParentRef, carried: Carried) -> Why {
        let state = self.mesh.state;
        let namespace = parent.namespace.as_deref();
        let name = ObjectName::new(namespace.unwrap_or(&meta.namespace), &parent.name);
        match (parent.group.as_str(), parent.kind.as_str()) {
            ("" | "core", "Service") => match state.services.get(&name) {
                Some(service) => self.of_parent(meta, parent, carried, "Service", service),
                None => Why::Mistake(self.missing_service(&name)),
            },
            ("networking.istio.io", "ServiceEntry") => match state.service_entries.get(&name) {
                Some(entry) => self.of_parent(meta, parent, carried, "ServiceEntry", entry),
                None => Why::Mistake(format!(
                    "no ServiceEntry {name} that is honoured is among the manifests"
                )),
            },
            (GATEWAY_API, "Gateway") => self.gateway_parent(&name),
            (GATEWAY_API, "Service") => Why::Mistake(format!(
                "without group it means a kind of {GATEWAY_API}, which has no Service: write group: \"\""
            )),
            (group, kind) => {
                let meant = meant(kind, ["Service", "ServiceEntry"]);
                Why::Mistake(format!(
                    "kind {kind:?} of group {group:?} is no parent that a waypoint knows{meant}"
                ))
            }
        }
    }

    fn gateway_parent(&self, name: &ObjectName) -> Why {
        let state = self.mesh.state;
        let service = "for a Service write group: \"\" and kind: Service";
        if *name == self.mesh.waypoint.gateway.name() {
            let reason =
                format!("a waypoint has routes by Services, not by its Gateway; {service}");
            return Why::Mistake(reason);
        }
        if state.gateways.contains_key(name) {
            return Why::Elsewhere(format!("for Gateway {name}"));
        }
        if state.services.contains_key(name) {
            let reason = format!("no Gateway {name} is among the manifests; {service}");
            return Why::Mistake(reason);
        }
        Why::Elsewhere("for a Gateway that isn't among the manifests".to_owned())
    }

    /// Why a parent that is there has no effect.
    fn of_parent<T>(
        &self,
        meta: &ObjectMeta,
        parent: &ParentRef,
        carried: Carried,
        kind: &str,
        object: &Object<T>,
    ) -> Why {
        let mut services = self.mesh.waypoint.services.iter();
        let Some(service) = services.find(|service| is_parent(parent, meta, service)) else {
            return self.of_service(kind, object);
        };
        let name = resource(kind, &object.meta);
        let is_for_clients = matches!(carried, Carried::Http) && self.mesh.is_on(CONSUMER_ROUTES);
        if !self.mesh.counts(meta, service) && !is_for_clients {
            let hint = match carried {
                Carried::Streams => String::new(),
                Carried::Http => format!(
                    "; the Gateway's annotation {CONSUMER_ROUTES}: enabled has it count for the clients of its own"
                ),
            };
            return Why::Mistake(format!(
                "a route for {} from another namespace than its own or {:?} has no effect{hint}",
                service.hostname, self.mesh.waypoint.gateway.meta.namespace
            ));
        }
        if service.resolution() == Resolution::None {
            return Why::Mistake(format!("{name} is an alias (ExternalName)"));
        }
        let meant = service.ports.iter().filter(|port| {
            parent.port.is_none_or(|number| number == port.number)
                && parent
                    .section_name
                    .as_ref()
                    .is_none_or(|name| *name == port.name)
        });
        let meant: Vec<&MeshPort> = meant.collect();
        let ports = listed(&service.ports);
        match (meant.as_slice(), parent.port, &parent.section_name) {
            ([], Some(port), None) => {
                Why::Mistake(format!("{name} has no port {port}; it has {ports}"))
            }
            ([], None, Some(section)) => Why::Mistake(format!(
                "{name} has no port of the name {section:?}; it has {ports}"
            )),
            ([], _, _) => Why::Mistake(format!("{name} has no such port; it has {ports}")),
            (ports, _, _) if !ports.iter().any(|port| carried.is_by(port)) => {
                let ports: Vec<MeshPort> = ports.iter().map(|port| (*port).clone()).collect();
                Why::Mistake(format!(
                    "{} is spoken there: {name} declares {}",
                    carried.missing(),
                    listed(&ports)
                ))
            }
            _ => Why::Mistake("no route was made of it".to_owned()),
        }
    }

    /// Backends and mirrors that aren't there.
    fn backends(&mut self, route: &Object<HttpRoute>, index: usize) {
        let Some(rule) = route.spec.rules.get(index) else {
            return;
        };
        for (position, backend) in rule.backends.iter().enumerate() {
            let kind = route.spec.kind.name();
            if let Some((reason, status)) = self.no_backend(kind, &route.meta, &backend.object)
                && backend.weight > 0
            {
                let field = format!("spec.rules[{index}].backendRefs[{position}]");
                let reason = format!("{reason}: its requests are answered {status}");
                self.part(route.spec.kind.name(), route, &field, Why::Mistake(reason));
            }
        }
        for mirror in rule.mirrors() {
            let kind = route.spec.kind.name();
            if let Some((reason, _)) = self.no_backend(kind, &route.meta, &mirror.backend_ref) {
                let field = format!("spec.rules[{index}].filters");
                let reason = format!("{reason}: nothing is mirrored");
                self.part(route.spec.kind.name(), route, &field, Why::Mistake(reason));
            }
        }
    }

    /// Why no request gets to a backend, and with which status it is answered.
    pub(super) fn no_backend(
        &self,
        kind: &str,
        meta: &ObjectMeta,
        backend: &BackendObject,
    ) -> Option<(String, u16)> {
        let service = match self.mesh.backend(backend, kind, &meta.namespace) {
            Ok(service) => service,
            Err(none) => return Some((self.why_no_backend(backend, kind, meta, none), 500)),
        };
        let name = match service.source {
            Source::Service(object) => format!("Service {}", object.name()),
            Source::Entry(_) => format!("host {:?}", service.hostname),
        };
        if service.resolution() == Resolution::None {
            return Some((format!("{name} is an alias (ExternalName)"), 500));
        }
        let number = backend.port.unwrap_or_default();
        let Some(port) = service.port(number) else {
            let ports = listed(&service.ports);
            let reason = format!("{name} has no TCP port {number}; it has {ports}");
            return Some((reason, 500));
        };
        // Of an own service it is told there, unless its clients choose among its pods themselves.
        let own = self.mesh.waypoint.owns(&service.hostname);
        match service.resolution() {
            Resolution::Endpoints if own => return None,
            Resolution::Dynamic if own => return None,
            Resolution::Dynamic => {
                let reason = format!("{name} is known only where this waypoint serves it");
                return Some((reason, 500));
            }
            _ => {}
        }
        let reason = self.leads_to_nobody(&service, port)?;
        let reason = format!("port {number} of {name} leads to nobody, {reason}");
        Some((reason, 503))
    }

    fn why_no_backend(
        &self,
        backend: &BackendObject,
        kind: &str,
        meta: &ObjectMeta,
        none: NoBackend,
    ) -> String {
        match none {
            NoBackend::Kind => {
                let (group, kind) = (&backend.group, &backend.kind);
                format!("kind {kind:?} of group {group:?} is not honoured as a backend")
            }
            NoBackend::Form(reason) => reason.to_owned(),
            NoBackend::NotGranted(name) => format!(
                "no ReferenceGrant in {:?} lets a {kind} of {:?} have Service {name} as a backend",
                name.namespace, meta.namespace
            ),
            NoBackend::NoService(name) => self.missing_service(&name),
            NoBackend::Hidden(name) => self.hidden_service(&name),
            NoBackend::NoHost => format!(
                "no Service and no ServiceEntry that is honoured has the host {:?}",
                backend.name
            ),
        }
    }
}

/// Ports as a reader looks for them.
pub(super) fn listed(ports: &[MeshPort]) -> String {
    let port = |port: &MeshPort| match port.name.as_str() {
        "" => format!("{}/{}", port.number, port.transport.name()),
        name => format!("{}/{} {name:?}", port.number, port.transport.name()),
    };
    let ports: Vec<String> = ports.iter().map(port).collect();
    if ports.is_empty() {
        "none".to_owned()
    } else {
        ports.join(", ")
    }
}
