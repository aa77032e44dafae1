//! HTTPRoutes of a service's port, merged by Gateway API precedence and put in the order in which they are
//! tried.
//!
//! istiod keeps apart what is attached to the service and what is attached to one of its ports, and routes
//! of different namespaces: precedence holds within each of these lists, and the lists follow each other by
//! the age of their oldest route. A route counts if it stands in the service's namespace or the waypoint's.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;

use crate::standalone::input::manifest::{Object, ObjectName};
use crate::standalone::kinds::gateway_api::http_route::{HttpRoute, ParentRef, Rule};
use crate::standalone::kinds::gateway_api::http_route_match::{
    Match, PathMatchType, ValueMatch, ValueMatchType,
};
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Source};
use crate::standalone::translate::Mesh;
use crate::standalone::translate::proto::packed::boolean;

/// One match of one rule: what becomes one route.
pub(super) struct Candidate<'a> {
    pub object: &'a Object<HttpRoute>,
    pub rule: &'a Rule,
    /// Position of the rule in its HTTPRoute.
    pub index: usize,
    pub found: &'a Match,
    /// Host name of the service that the route is attached to.
    pub parent: &'a str,
}

/// Routes that precedence sorts together.
pub(super) struct List<'a> {
    /// Name of the internal VirtualService that istiod makes of them.
    name: String,
    namespace: &'a str,
    parent: &'a str,
    routes: Vec<&'a Object<HttpRoute>>,
}

impl Mesh<'_> {
    /// The routes of a port; empty without any HTTPRoute.
    pub(super) fn http_routes(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
    ) -> Vec<route::Route> {
        let mut routes = Vec::new();
        for list in self.lists(service, port) {
            for candidate in list.candidates() {
                let translated =
                    self.http_route(&candidate, &list.name, list.namespace, port.number);
                let ends = translated.r#match.as_ref().is_some_and(is_catch_all);
                routes.push(translated);
                self.effects.mark(candidate.found);
                // Nothing behind it in this list can be reached.
                if ends {
                    break;
                }
            }
        }
        routes
    }

    pub(super) fn lists<'a>(
        &'a self,
        service: &'a MeshService<'_>,
        port: &MeshPort,
    ) -> Vec<List<'a>> {
        let mut lists: BTreeMap<(&str, Option<u16>), Vec<&Object<HttpRoute>>> = BTreeMap::new();
        for object in self.attached(service) {
            let parents = object
                .spec
                .parents
                .iter()
                .filter(|parent| is_parent(parent, object, service));
            let meant = parents.filter_map(|parent| {
                let port = parent_port(parent, port)?;
                self.effects.mark(parent);
                Some(port)
            });
            let ports: BTreeSet<Option<u16>> = meant.collect();
            for port in ports {
                lists
                    .entry((object.meta.namespace.as_str(), port))
                    .or_default()
                    .push(object);
            }
        }
        let mut lists: Vec<List<'_>> = lists
            .into_iter()
            .map(|((namespace, port), mut routes)| {
                routes.sort_by(|a, b| order(a).cmp(&order(b)));
                let port = port.map(|port| format!("~{port}")).unwrap_or_default();
                List {
                    name: format!("{namespace}{port}~{}", service.hostname),
                    namespace,
                    parent: &service.hostname,
                    routes,
                }
            })
            .collect();
        lists.sort_by(|a, b| {
            (a.created(), &a.name, a.namespace).cmp(&(b.created(), &b.name, b.namespace))
        });
        lists
    }

    /// HTTPRoutes with this service as a parent, from the namespaces that count.
    fn attached<'r>(&'r self, service: &MeshService<'_>) -> Vec<&'r Object<HttpRoute>> {
        let all = self.state.http_routes.values();
        all.filter(|object| self.counts(object, service) && has_parent(object, service))
            .collect()
    }

    pub(super) fn counts(&self, object: &Object<HttpRoute>, service: &MeshService<'_>) -> bool {
        let namespace = object.meta.namespace.as_str();
        namespace == service.namespace || namespace == self.waypoint.gateway.meta.namespace
    }

    /// Kubernetes services that the routes of a service send to or mirror to.
    pub(super) fn route_backends(&self, service: &MeshService<'_>) -> BTreeSet<ObjectName> {
        let mut backends = BTreeSet::new();
        for object in self.attached(service) {
            for rule in &object.spec.rules {
                let named = rule.backends.iter().map(|backend| &backend.object);
                let mirrored = rule.mirrors().map(|mirror| &mirror.backend_ref);
                for backend in named.chain(mirrored).filter(|backend| backend.is_service()) {
                    let namespace = backend
                        .namespace
                        .as_deref()
                        .unwrap_or(&object.meta.namespace);
                    backends.insert(ObjectName::new(namespace, &backend.name));
                }
            }
        }
        backends
    }
}

impl<'a> List<'a> {
    fn created(&self) -> i64 {
        self.routes.first().map_or(0, |route| route.meta.created)
    }

    /// Every match of every rule: exact paths before prefixes before expressions before `/`, longer ones
    /// first, then with method, then more headers, then more query parameters, then the older route.
    ///
    /// The Gateway API leaves it open where expressions come. `/` says nothing of the path, and before them
    /// it would leave no request to them.
    pub(super) fn candidates(&self) -> Vec<Candidate<'a>> {
        let mut candidates: Vec<Candidate<'a>> = Vec::new();
        for object in &self.routes {
            for (index, rule) in object.spec.rules.iter().enumerate() {
                let of_match = |found| Candidate {
                    object,
                    rule,
                    index,
                    found,
                    parent: self.parent,
                };
                candidates.extend(rule.matches.iter().map(of_match));
            }
        }
        candidates.sort_by_key(|candidate| std::cmp::Reverse(rank(candidate.found)));
        candidates
    }
}

fn rank(found: &Match) -> (u8, usize, bool, usize, usize) {
    let kind = match found.path.r#type {
        PathMatchType::Exact => 3,
        PathMatchType::PathPrefix if path_value(found) == "/" => 0,
        PathMatchType::PathPrefix => 2,
        PathMatchType::RegularExpression => 1,
    };
    let length = path_value(found).len();
    (
        kind,
        length,
        found.method.is_some(),
        found.headers.len(),
        found.query_params.len(),
    )
}

/// A prefix is compared by segments, so that a trailing slash says nothing.
pub(super) fn path_value(found: &Match) -> &str {
    let value = found.path.value.as_str();
    match found.path.r#type {
        PathMatchType::PathPrefix if value != "/" => value.strip_suffix('/').unwrap_or(value),
        _ => value,
    }
}

fn order(object: &Object<HttpRoute>) -> (i64, &str, &str) {
    (
        object.meta.created,
        &object.meta.namespace,
        &object.meta.name,
    )
}

fn has_parent(object: &Object<HttpRoute>, service: &MeshService<'_>) -> bool {
    object
        .spec
        .parents
        .iter()
        .any(|parent| is_parent(parent, object, service))
}

pub(super) fn is_parent(
    parent: &ParentRef,
    object: &Object<HttpRoute>,
    service: &MeshService<'_>,
) -> bool {
    let namespace = parent
        .namespace
        .as_deref()
        .unwrap_or(&object.meta.namespace);
    match (parent.group.as_str(), parent.kind.as_str(), service.source) {
        ("" | "core", "Service", Source::Service(found)) => {
            found.name() == ObjectName::new(namespace, &parent.name)
        }
        ("networking.istio.io", "ServiceEntry", Source::Entry(found)) => {
            found.name() == ObjectName::new(namespace, &parent.name)
        }
        _ => false,
    }
}

/// Whether a parent reference means this port: `None` no, `Some(None)` it means all.
fn parent_port(parent: &ParentRef, port: &MeshPort) -> Option<Option<u16>> {
    if parent
        .section_name
        .as_ref()
        .is_some_and(|section| *section != port.name)
    {
        return None;
    }
    match parent.port {
        Some(number) if number != port.number => None,
        number => Some(number),
    }
}

pub(super) fn is_catch_all(found: &route::RouteMatch) -> bool {
    let everything = matches!(
        &found.path_specifier,
        Some(route::route_match::PathSpecifier::Prefix(prefix)) if prefix == "/"
    );
    everything && found.headers.is_empty() && found.query_parameters.is_empty()
}

/// The match of a route.
pub(super) fn route_match(found: &Match) -> route::RouteMatch {
    use route::route_match::PathSpecifier;
    let path = path_value(found).to_owned();
    let path_specifier = match found.path.r#type {
        PathMatchType::Exact => PathSpecifier::Path(path),
        PathMatchType::PathPrefix if path == "/" => PathSpecifier::Prefix(path),
        PathMatchType::PathPrefix => PathSpecifier::PathSeparatedPrefix(path),
        PathMatchType::RegularExpression => PathSpecifier::SafeRegex(regex(path)),
    };
    let mut headers: Vec<route::HeaderMatcher> = found.headers.iter().map(header_matcher).collect();
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    headers.extend(found.method.iter().map(|method| route::HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(
            string(matcher::string_matcher::MatchPattern::Exact(method.clone())),
        )),
        ..route::HeaderMatcher::default()
    }));
    let mut query_parameters: Vec<_> = found.query_params.iter().map(query_matcher).collect();
    query_parameters.sort_by(|a, b| a.name.cmp(&b.name));
    route::RouteMatch {
        case_sensitive: boolean(true),
        headers,
        query_parameters,
        path_specifier: Some(path_specifier),
        ..route::RouteMatch::default()
    }
}

fn header_matcher(found: &ValueMatch) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier;
    route::HeaderMatcher {
        name: found.name.clone(),
        header_match_specifier: Some(match pattern(found) {
            Some(pattern) => HeaderMatchSpecifier::StringMatch(string(pattern)),
            None => HeaderMatchSpecifier::PresentMatch(true),
        }),
        ..route::HeaderMatcher::default()
    }
}

fn query_matcher(found: &ValueMatch) -> route::QueryParameterMatcher {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier;
    route::QueryParameterMatcher {
        name: found.name.clone(),
        query_parameter_match_specifier: Some(match pattern(found) {
            Some(pattern) => QueryParameterMatchSpecifier::StringMatch(string(pattern)),
            None => QueryParameterMatchSpecifier::PresentMatch(true),
        }),
    }
}

/// `None`: any value. (`*` alone is no expression; the reader has refused it.)
fn pattern(found: &ValueMatch) -> Option<matcher::string_matcher::MatchPattern> {
    use matcher::string_matcher::MatchPattern;
    match found.r#type {
        ValueMatchType::Exact => Some(MatchPattern::Exact(found.value.clone())),
        ValueMatchType::RegularExpression if found.value == "*" => None,
        ValueMatchType::RegularExpression => {
            Some(MatchPattern::SafeRegex(regex(found.value.clone())))
        }
    }
}

fn string(pattern: matcher::string_matcher::MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..matcher::StringMatcher::default()
    }
}

pub(super) fn regex(regex: String) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex,
        ..matcher::RegexMatcher::default()
    }
}
