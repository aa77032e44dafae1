//! The status that istiod would write of a route, for each parent that is a Service or a ServiceEntry.
//!
//! After istiod 1.31: a parent is accepted if it is there, whether a waypoint has it or not; what it says of waypoints is a condition of
//! its own that always holds, and its message tells. The last backend that can't be used is told, a filter that isn't
//! known before all backends.

use std::fmt;

use crate::standalone::input::manifest::{Object, ObjectMeta, ObjectName, resource};
use crate::standalone::kinds::core::service::CLUSTER_DOMAIN;
use crate::standalone::kinds::gateway_api::backend_object::BackendObject;
use crate::standalone::kinds::gateway_api::http_route::{HttpRoute, ParentRef};
use crate::standalone::kinds::gateway_api::http_route_filter::Filter;
use crate::standalone::kinds::gateway_api::stream_route::StreamRoute;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::routes::route_backends::NoBackend;

const USE_WAYPOINT: &str = "istio.io/use-waypoint";

/// What is told of one parent of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// `Kind namespace/name`.
    pub route: String,
    pub parent: String,
    pub port: Option<u16>,
    pub section: Option<String>,
    pub conditions: [Condition; 3],
}

/// A condition of the Gateway API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub name: &'static str,
    pub holds: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Why references of a route don't lead where they should.
#[derive(Clone)]
struct Unresolved {
    reason: &'static str,
    message: String,
}

impl Mesh<'_> {
    /// Of all routes, in the order of the manifests' names.
    pub(super) fn statuses(&self) -> Vec<ParentStatus> {
        let mut all = Vec::new();
        for route in self.state.routes() {
            let error = self.unresolved(route);
            let kind = route.spec.kind.name();
            self.of_parents(kind, &route.meta, &route.spec.parents, error, &mut all);
        }
        for route in self.state.stream_routes() {
            let error = self.unresolved_streams(route);
            let kind = route.spec.kind.name();
            self.of_parents(kind, &route.meta, &route.spec.parents, error, &mut all);
        }
        all
    }

    fn of_parents(
        &self,
        kind: &'static str,
        meta: &ObjectMeta,
        parents: &[ParentRef],
        error: Option<Unresolved>,
        all: &mut Vec<ParentStatus>,
    ) {
        for parent in parents {
            let namespace = parent.namespace.as_deref().unwrap_or(&meta.namespace);
            let name = ObjectName::new(namespace, &parent.name);
            let (found, kind_of_parent, words) = match (parent.group.as_str(), parent.kind.as_str())
            {
                ("" | "core", "Service") => {
                    let found = self.state.services.get(&name).map(|object| &object.meta);
                    (found, "Service", "service")
                }
                ("networking.istio.io", "ServiceEntry") => {
                    let found = self.state.service_entries.get(&name);
                    (
                        found.map(|object| &object.meta),
                        "ServiceEntry",
                        "service entry",
                    )
                }
                _ => continue,
            };
            let accepted = match found {
                Some(_) => holding("Accepted", "Accepted", "Route was valid"),
                None => Condition {
                    name: "Accepted",
                    holds: false,
                    reason: "NoMatchingParent",
                    message: format!("parent {words}: {:?} not found", parent.name),
                },
            };
            let resolved = match &error {
                None => holding("ResolvedRefs", "ResolvedRefs", "All references resolved"),
                Some(error) => Condition {
                    name: "ResolvedRefs",
                    holds: false,
                    reason: error.reason,
                    message: error.message.clone(),
                },
            };
            let waypoints = match found {
                None => "parent not found",
                Some(found) if self.has_label(found) => "All waypoints resolved",
                Some(_) => {
                    "istio.io/use-waypoint label missing from parent and parent namespace; in ambient mode, route will not be respected"
                }
            };
            all.push(ParentStatus {
                route: resource(kind, meta),
                parent: format!("{kind_of_parent} {name}"),
                port: parent.port,
                section: parent.section_name.clone(),
                conditions: [
                    accepted,
                    resolved,
                    holding("ResolvedWaypoints", "ResolvedWaypoints", waypoints),
                ],
            });
        }
    }

    /// Whether the object, or its namespace, says by which waypoint it is to be reached.
    fn has_label(&self, meta: &ObjectMeta) -> bool {
        let namespace = self.state.namespaces.get(&meta.namespace);
        let labelled = |meta: &ObjectMeta| meta.label(USE_WAYPOINT).is_some_and(|l| !l.is_empty());
        // A namespace that isn't there says nothing against it.
        labelled(meta) || namespace.is_none_or(labelled)
    }

    fn unresolved(&self, route: &Object<HttpRoute>) -> Option<Unresolved> {
        let (kind, meta) = (route.spec.kind.name(), &route.meta);
        let mut last = None;
        for rule in &route.spec.rules {
            let of_backends = rule.backends.iter().flat_map(|backend| &backend.filters);
            for filter in rule.filters.iter().chain(of_backends) {
                if let Filter::NotHonoured(name) = filter {
                    return Some(Unresolved {
                        reason: "InvalidFilter",
                        message: format!("unsupported filter type {name:?}"),
                    });
                }
            }
            let taking = rule.backends.iter().filter(|backend| backend.weight > 0);
            let named = taking.map(|backend| &backend.object);
            let mirrored = rule.mirrors().map(|mirror| &mirror.backend_ref);
            for backend in named.chain(mirrored) {
                last = self.unresolved_backend(kind, meta, backend).or(last);
            }
        }
        last
    }

    fn unresolved_streams(&self, route: &Object<StreamRoute>) -> Option<Unresolved> {
        let (kind, meta) = (route.spec.kind.name(), &route.meta);
        let backends = route.spec.rules.iter().flat_map(|rule| &rule.backends);
        let taking = backends.filter(|backend| backend.weight > 0);
        let errors = taking.map(|backend| self.unresolved_backend(kind, meta, &backend.object));
        errors.flatten().last()
    }

    fn unresolved_backend(
        &self,
        kind: &str,
        meta: &ObjectMeta,
        backend: &BackendObject,
    ) -> Option<Unresolved> {
        let (reason, message) = match self.backend(backend, kind, &meta.namespace).err()? {
            NoBackend::Kind => (
                "InvalidKind",
                format!(
                    "referencing unsupported backendRef: group {:?} kind {:?}",
                    backend.group, backend.kind
                ),
            ),
            NoBackend::Form(reason) => ("InvalidDestination", reason.to_owned()),
            NoBackend::NotGranted(name) => (
                "RefNotPermitted",
                format!(
                    "backendRef {}/{} not accessible to a {kind} in namespace {:?} (missing a ReferenceGrant?)",
                    name.name, name.namespace, meta.namespace
                ),
            ),
            NoBackend::NoService(name) => (
                "BackendNotFound",
                format!(
                    "backend({}.{}.{CLUSTER_DOMAIN}) not found",
                    name.name, name.namespace
                ),
            ),
            // istiod's status doesn't look at whose it is to know.
            NoBackend::Hidden(_) => return None,
            NoBackend::NoHost => (
                "BackendNotFound",
                format!("backend({}) not found", backend.name),
            ),
        };
        Some(Unresolved { reason, message })
    }
}

fn holding(name: &'static str, reason: &'static str, message: &str) -> Condition {
    Condition {
        name,
        holds: true,
        reason,
        message: message.to_owned(),
    }
}

/// As `HTTPRoute default/web of Service default/web: Accepted (Accepted: Route was valid), …`.
impl fmt::Display for ParentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.route, self.parent)?;
        if let Some(port) = self.port {
            write!(f, " port {port}")?;
        }
        if let Some(section) = &self.section {
            write!(f, " section {section}")?;
        }
        for (index, condition) in self.conditions.iter().enumerate() {
            let before = if index == 0 { ": " } else { ", " };
            let not = if condition.holds { "" } else { "not " };
            let Condition {
                name,
                reason,
                message,
                ..
            } = condition;
            write!(f, "{before}{not}{name} ({reason}: {message})")?;
        }
        Ok(())
    }
}
