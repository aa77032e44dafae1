//! HTTPRoutes and GRPCRoutes of a service's port, merged by Gateway API precedence and put in the order in which they
//! are tried.
//!
//! istiod keeps apart what is attached to the service and what is attached to one of its ports, and routes
//! of different namespaces, but not the two kinds: precedence holds within each of these lists. Those of the waypoint's
//! namespace come first, then they follow each other by the age of their oldest route. A route counts if it stands in the service's namespace or the waypoint's;
//! where the user asks for it, one of another namespace counts for the clients of that, before all others.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;

use crate::standalone::input::manifest::{Object, ObjectMeta, ObjectName};
use crate::standalone::kinds::gateway_api::http_route::{HttpRoute, ParentRef, Rule};
use crate::standalone::kinds::gateway_api::http_route_match::{
    Match, PathMatchType, ValueMatch, ValueMatchType,
};
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Source};
use crate::standalone::state::virtual_services::{Near, Order};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::context::settings::CONSUMER_ROUTES;
use crate::standalone::translate::proto::packed::boolean;
use crate::standalone::translate::proto::regex::regex_matcher as regex;
use crate::standalone::translate::security::rbac_principal::PEER_PRINCIPAL;

/// One match of one rule: what becomes one route.
pub(crate) struct Candidate<'a> {
    pub object: &'a Object<HttpRoute>,
    pub rule: &'a Rule,
    /// Position of the rule in its route.
    pub index: usize,
    pub found: &'a Match,
    /// Host name of the service that the route is attached to.
    pub parent: &'a str,
}

/// Routes that follow each other, and where they stand among others.
pub(crate) struct Placed {
    pub order: Order,
    pub routes: Vec<route::Route>,
    /// Whether they are for the clients of one namespace only.
    pub for_some: bool,
}

/// Routes that precedence sorts together.
pub(crate) struct List<'a> {
    pub order: Order,
    /// Name of the internal VirtualService that istiod makes of them.
    name: String,
    namespace: &'a str,
    parent: &'a str,
    routes: Vec<&'a Object<HttpRoute>>,
    /// Whether only clients of its namespace follow it.
    pub for_clients: bool,
}

impl Mesh<'_> {
    /// The routes of a port; empty without any HTTPRoute and GRPCRoute.
    pub(crate) fn http_routes(&self, service: &MeshService<'_>, port: &MeshPort) -> Vec<Placed> {
        let mut placed = Vec::new();
        for list in self.lists(service, port) {
            let mut routes = Vec::new();
            let mut ended = false;
            for candidate in list.candidates() {
                let translated =
                    self.http_route(&candidate, &list.name, list.namespace, port.number);
                let ends = translated.r#match.as_ref().is_some_and(is_catch_all);
                ended |= ends;
                routes.push(translated);
                self.effects.mark(candidate.found);
                // Nothing behind it in this list can be reached.
                if ends {
                    break;
                }
            }
            if list.for_clients {
                // Whoever has routes of their own has no others.
                routes.extend((!ended).then(not_found));
                self.only_clients_of(list.namespace, &mut routes);
            }
            placed.push(Placed {
                order: list.order.clone(),
                routes,
                for_some: list.for_clients,
            });
        }
        placed
    }

    pub(crate) fn lists<'a>(
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
                .filter(|parent| is_parent(parent, &object.meta, service));
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
                let name = format!("{namespace}{port}~{}", service.hostname);
                let created = routes.first().map_or(0, |route| route.meta.created);
                let for_clients = routes
                    .first()
                    .is_some_and(|route| !self.counts(&route.meta, service));
                let near = match for_clients {
                    true => Near::Clients,
                    false => self.nearness(namespace),
                };
                List {
                    order: Order::new(near, created, &name, namespace),
                    name,
                    namespace,
                    parent: &service.hostname,
                    routes,
                    for_clients,
                }
            })
            .collect();
        lists.sort_by(|a, b| a.order.cmp(&b.order));
        lists
    }

    /// Where routes of the Gateway API stand that are of this namespace.
    pub(super) fn nearness(&self, namespace: &str) -> Near {
        match namespace == self.waypoint.gateway.meta.namespace {
            true => Near::OwnRoute,
            false => Near::Public,
        }
    }

    /// Routes with this service as a parent, from the namespaces that count.
    pub(crate) fn attached<'r>(&'r self, service: &MeshService<'_>) -> Vec<&'r Object<HttpRoute>> {
        let all = self.state.routes();
        let counts = |object: &Object<HttpRoute>| {
            self.counts(&object.meta, service) || self.is_on(CONSUMER_ROUTES)
        };
        all.filter(|object| counts(object) && has_parent(object, service))
            .collect()
    }

    /// Lets only clients of this namespace follow routes, whoever else they say to be.
    fn only_clients_of(&self, namespace: &str, routes: &mut [route::Route]) {
        let pattern = match self.trust_domains.as_slice() {
            [only] => {
                let prefix = format!("spiffe://{only}/ns/{namespace}/sa/");
                matcher::string_matcher::MatchPattern::Prefix(prefix)
            }
            several => {
                let domains: Vec<String> = several
                    .iter()
                    .map(|domain| ::regex::escape(domain))
                    .collect();
                let domains = domains.join("|");
                let text = format!("spiffe://({domains})/ns/{namespace}/sa/.*");
                matcher::string_matcher::MatchPattern::SafeRegex(regex(text))
            }
        };
        let client = matcher::FilterStateMatcher {
            key: PEER_PRINCIPAL.to_owned(),
            matcher: Some(matcher::filter_state_matcher::Matcher::StringMatch(string(
                pattern,
            ))),
        };
        for found in routes.iter_mut().filter_map(|route| route.r#match.as_mut()) {
            found.filter_state = vec![client.clone()];
        }
    }

    pub(crate) fn counts(&self, meta: &ObjectMeta, service: &MeshService<'_>) -> bool {
        let namespace = meta.namespace.as_str();
        namespace == service.namespace || namespace == self.waypoint.gateway.meta.namespace
    }
}

impl<'a> List<'a> {
    /// Every match of every rule: exact paths before prefixes before expressions before `/`, longer ones
    /// first, then with method, then more headers, then more query parameters, then the older route.
    ///
    /// The Gateway API leaves it open where expressions come. `/` says nothing of the path, and before them
    /// it would leave no request to them.
    pub(crate) fn candidates(&self) -> Vec<Candidate<'a>> {
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

fn not_found() -> route::Route {
    route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..route::RouteMatch::default()
        }),
        action: Some(route::route::Action::DirectResponse(
            route::DirectResponseAction {
                status: 404,
                ..route::DirectResponseAction::default()
            },
        )),
        ..route::Route::default()
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
pub(crate) fn path_value(found: &Match) -> &str {
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
        .any(|parent| is_parent(parent, &object.meta, service))
}

pub(crate) fn is_parent(parent: &ParentRef, meta: &ObjectMeta, service: &MeshService<'_>) -> bool {
    let namespace = parent.namespace.as_deref().unwrap_or(&meta.namespace);
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
pub(super) fn parent_port(parent: &ParentRef, port: &MeshPort) -> Option<Option<u16>> {
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

pub(crate) fn is_catch_all(found: &route::RouteMatch) -> bool {
    use route::route_match::PathSpecifier;
    let everything = match &found.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(path)) => path.regex == ".*",
        _ => false,
    };
    everything && found.headers.is_empty() && found.query_parameters.is_empty()
}

/// The match of a route.
pub(crate) fn route_match(found: &Match) -> route::RouteMatch {
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
