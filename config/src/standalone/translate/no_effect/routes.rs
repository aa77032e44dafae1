//! HTTPRoutes: parents that are nobody here, matches that no request reaches, backends that aren't there.

use std::collections::{BTreeMap, BTreeSet};

use crate::standalone::input::manifest::resource;
use crate::standalone::input::manifest::{Object, ObjectName};
use crate::standalone::input::near::meant;
use crate::standalone::kinds::core::service::Protocol;
use crate::standalone::kinds::gateway_api::backend_object::BackendObject;
use crate::standalone::kinds::gateway_api::http_route::{HttpRoute, ParentRef};
use crate::standalone::kinds::gateway_api::http_route_match::{Match, PathMatchType, ValueMatch};
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Resolution};
use crate::standalone::translate::http_routes::{
    Candidate, is_catch_all, is_parent, path_value, route_match,
};
use crate::standalone::translate::no_effect::{Telling, Why};

const ROUTE: &str = "HTTPRoute";
const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// What stands before a match and takes its requests: a route and its rule.
type Before = (ObjectName, usize);

/// What becomes of the requests that a match asks for.
enum Reach {
    /// Some come.
    Reached,
    /// None comes; what takes them, where that can be told.
    Hidden(Option<Before>),
}

/// By the place of the match.
type Reaches = BTreeMap<usize, Reach>;

impl Telling<'_, '_> {
    pub(super) fn routes(&mut self) {
        let mesh = self.mesh;
        let reaches = self.reaches();
        for route in mesh.state.http_routes.values() {
            if route.spec.default_gateways {
                let reason = "istiod knows no default Gateways: a route is attached by parentRefs";
                let field = "spec.useDefaultGateways";
                self.part(ROUTE, route, field, Why::Mistake(reason.to_owned()));
            } else if route.spec.parents.is_empty() {
                let reason = "is empty: the route is attached to nothing".to_owned();
                self.part(ROUTE, route, "spec.parentRefs", Why::Mistake(reason));
            }
            let mut attached = false;
            for (index, parent) in route.spec.parents.iter().enumerate() {
                if mesh.effects.shows(parent) {
                    attached = true;
                } else {
                    let why = self.no_parent(route, parent);
                    self.part(ROUTE, route, &format!("spec.parentRefs[{index}]"), why);
                }
            }
            if attached {
                self.attached(route, &reaches);
            }
        }
    }

    /// A route that has an effect: what of it hasn't.
    fn attached(&mut self, route: &Object<HttpRoute>, reaches: &Reaches) {
        if route.spec.has_hostnames {
            let reason = "play no part for a route of a Service: address and port have chosen it, whatever the Host";
            self.part(
                ROUTE,
                route,
                "spec.hostnames",
                Why::Mistake(reason.to_owned()),
            );
        }
        for (index, rule) in route.spec.rules.iter().enumerate() {
            let hidden = |found: &Match| match reaches.get(&std::ptr::from_ref(found).addr()) {
                Some(Reach::Reached) => None,
                Some(Reach::Hidden(before)) => Some(before.clone()),
                None => Some(None),
            };
            let hidden: Vec<_> = rule.matches.iter().map(hidden).collect();
            let all = hidden.iter().all(Option::is_some);
            for (position, before) in hidden.iter().enumerate() {
                let Some(before) = before else { continue };
                let field = match all {
                    true => format!("spec.rules[{index}]"),
                    false => format!("spec.rules[{index}].matches[{position}]"),
                };
                let reason = match before {
                    Some((name, rule)) => format!(
                        "no request gets here: spec.rules[{rule}] of HTTPRoute {name} stands before it and takes them"
                    ),
                    None => {
                        "no request gets here: other rules stand before it and take them".to_owned()
                    }
                };
                self.part(ROUTE, route, &field, Why::Mistake(reason));
                if all {
                    break;
                }
            }
            if !all {
                self.backends(route, index);
            }
        }
    }

    /// For each match of an attached route, whether any service's requests reach it.
    fn reaches(&self) -> Reaches {
        let mut found = Reaches::new();
        let parents = self.mesh.state.http_routes.values().flat_map(|route| {
            let of_route = move |parent: &ParentRef| {
                let namespace = parent.namespace.as_deref();
                ObjectName::new(namespace.unwrap_or(&route.meta.namespace), &parent.name)
            };
            route.spec.parents.iter().map(of_route)
        });
        let parents: BTreeSet<ObjectName> = parents.collect();
        let services = self.mesh.waypoint.services.iter();
        for service in services.filter(|service| parents.contains(&service.declared_as())) {
            for port in service.ports.iter().filter(|port| carries_http(port)) {
                self.reaches_on(service, port, &mut found);
            }
        }
        found
    }

    fn reaches_on(&self, service: &MeshService<'_>, port: &MeshPort, found: &mut Reaches) {
        let mut seen: BTreeMap<String, Before> = BTreeMap::new();
        let mut ended: Option<Before> = None;
        for list in self.mesh.lists(service, port) {
            let mut ends: Option<Before> = None;
            for candidate in list.candidates() {
                let place = std::ptr::from_ref(candidate.found).addr();
                let own = (candidate.object.name(), candidate.index);
                let emitted = self.mesh.effects.shows(candidate.found);
                let twin = seen.get(&same(candidate.found)).cloned();
                let before = match (&ended, twin) {
                    (Some(before), _) => Some(before.clone()),
                    (None, Some(twin)) => Some(twin),
                    (None, None) if !emitted => ends.clone(),
                    (None, None) => None,
                };
                if before.is_none() && emitted {
                    found.insert(place, Reach::Reached);
                } else {
                    found.entry(place).or_insert(Reach::Hidden(before));
                }
                seen.entry(same(candidate.found))
                    .or_insert_with(|| own.clone());
                if takes_all(&candidate) {
                    ends.get_or_insert(own);
                }
            }
            ended = ended.or(ends);
        }
    }

    /// Why a parent has no effect.
    fn no_parent(&self, route: &Object<HttpRoute>, parent: &ParentRef) -> Why {
        let state = self.mesh.state;
        let namespace = parent.namespace.as_deref();
        let name = ObjectName::new(namespace.unwrap_or(&route.meta.namespace), &parent.name);
        match (parent.group.as_str(), parent.kind.as_str()) {
            ("" | "core", "Service") => match state.services.get(&name) {
                Some(service) => self.of_parent(route, parent, "Service", service),
                None => Why::Mistake(self.missing_service(&name)),
            },
            ("networking.istio.io", "ServiceEntry") => match state.service_entries.get(&name) {
                Some(entry) => self.of_parent(route, parent, "ServiceEntry", entry),
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
        route: &Object<HttpRoute>,
        parent: &ParentRef,
        kind: &str,
        object: &Object<T>,
    ) -> Why {
        let mut services = self.mesh.waypoint.services.iter();
        let Some(service) = services.find(|service| is_parent(parent, route, service)) else {
            return self.of_service(kind, object);
        };
        let name = resource(kind, &object.meta);
        if !self.mesh.counts(route, service) {
            return Why::Mistake(format!(
                "a route for {} from another namespace than its own or {:?} has no effect",
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
            (ports, _, _) if !ports.iter().any(|port| carries_http(port)) => {
                let ports: Vec<MeshPort> = ports.iter().map(|port| (*port).clone()).collect();
                Why::Mistake(format!(
                    "no HTTP is spoken there: {name} declares {}",
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
            if let Some((reason, status)) = self.no_backend(route, &backend.object)
                && backend.weight > 0
            {
                let field = format!("spec.rules[{index}].backendRefs[{position}]");
                let reason = format!("{reason}: its requests are answered {status}");
                self.part(ROUTE, route, &field, Why::Mistake(reason));
            }
        }
        for mirror in rule.mirrors() {
            if let Some((reason, _)) = self.no_backend(route, &mirror.backend_ref) {
                let field = format!("spec.rules[{index}].filters");
                let reason = format!("{reason}: nothing is mirrored");
                self.part(ROUTE, route, &field, Why::Mistake(reason));
            }
        }
    }

    /// Why no request gets to a backend, and with which status it is answered.
    fn no_backend(
        &self,
        route: &Object<HttpRoute>,
        backend: &BackendObject,
    ) -> Option<(String, u16)> {
        if !backend.is_service() {
            let (group, kind) = (&backend.group, &backend.kind);
            let reason = format!("kind {kind:?} of group {group:?} is not honoured as a backend");
            return Some((reason, 500));
        }
        let namespace = backend.namespace.as_deref();
        let name = ObjectName::new(namespace.unwrap_or(&route.meta.namespace), &backend.name);
        let Some(service) = self.mesh.state.services.get(&name) else {
            return Some((self.missing_service(&name), 500));
        };
        if service.spec.external_name {
            return Some((format!("Service {name} is an alias (ExternalName)"), 500));
        }
        let number = backend.port.unwrap_or_default();
        let service = MeshService::of_service(service);
        let Some(port) = service.port(number) else {
            let ports = listed(&service.ports);
            let reason = format!("Service {name} has no TCP port {number}; it has {ports}");
            return Some((reason, 500));
        };
        // Of an own service it is told there, unless its clients choose among its pods themselves.
        if self.mesh.waypoint.owns(&service.hostname)
            && service.resolution() == Resolution::Endpoints
        {
            return None;
        }
        let reason = self.leads_to_nobody(&service, port)?;
        let reason = format!("port {number} of Service {name} leads to nobody, {reason}");
        Some((reason, 503))
    }
}

/// Whether a port has HTTP chains.
fn carries_http(port: &MeshPort) -> bool {
    port.protocol.is_http() || port.protocol == Protocol::Unknown
}

fn takes_all(candidate: &Candidate<'_>) -> bool {
    is_catch_all(&route_match(candidate.found))
}

/// What a match asks for, however it is written.
fn same(found: &Match) -> String {
    let kind = match found.path.r#type {
        PathMatchType::Exact => "exact",
        PathMatchType::PathPrefix => "prefix",
        PathMatchType::RegularExpression => "regex",
    };
    let values = |values: &[ValueMatch], any_case: bool| -> BTreeSet<String> {
        let value = |value: &ValueMatch| {
            let name = match any_case {
                true => value.name.to_ascii_lowercase(),
                false => value.name.clone(),
            };
            format!("{name:?} {:?} {:?}", value.r#type, value.value)
        };
        values.iter().map(value).collect()
    };
    format!(
        "{kind} {:?} {:?} {:?} {:?}",
        path_value(found),
        found.method,
        values(&found.headers, true),
        values(&found.query_params, false)
    )
}

/// Ports as a reader looks for them.
fn listed(ports: &[MeshPort]) -> String {
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
