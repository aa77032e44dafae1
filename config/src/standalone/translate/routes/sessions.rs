//! Sessions: whose requests stay with an endpoint, as rules of routes and labels of services say.
//!
//! istiod knows the labels only, if it is told to (`PILOT_ENABLE_PERSISTENT_SESSION_FILTER`), and gives waypoints no filter that
//! would heed them. What is said here is in Envoy's words all the same: Envoy, given it, does the same.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession, StatefulSessionPerRoute, stateful_session_per_route::Override,
};
use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use envoy_types::pb::envoy::r#type::http::v3::{Cookie, CookieAttribute};
use envoy_types::pb::google::protobuf::Any;
use route::route::Action;
use route::route_action::ClusterSpecifier;

use crate::model::balance::xx_hash::xx_hash;
use crate::standalone::input::manifest::ObjectMeta;
use crate::standalone::kinds::gateway_api::http_route_match::{Match, PathMatchType};
use crate::standalone::kinds::gateway_api::session_persistence::{SessionPersistence, SessionType};
use crate::standalone::state::mesh_service::Source;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::{any, duration};
use crate::standalone::translate::routes::http_routes::{Candidate, path_value};

pub(in crate::standalone::translate) const SESSIONS: &str = "envoy.filters.http.stateful_session";

/// Of a Service: the name of a cookie, or of a header.
const BY_COOKIE: &str = "istio.io/persistent-session";
const BY_HEADER: &str = "istio.io/persistent-session-header";

impl Mesh<'_> {
    /// Has routes keep the sessions of the services that they lead to, unless their rules say something else. Of several services
    /// the first counts that says anything.
    pub(super) fn keep_sessions_of_services(&self, routes: &mut [route::Route]) {
        for route in routes {
            let Some(Action::Route(action)) = &route.action else {
                continue;
            };
            if route.typed_per_filter_config.contains_key(SESSIONS) {
                continue;
            }
            let clusters = clusters(action);
            if let Some(session) = clusters.into_iter().find_map(|c| self.session_of(c)) {
                let config = (SESSIONS.to_owned(), any(&session));
                route.typed_per_filter_config.extend([config]);
            }
        }
    }

    /// What the service of a cluster says.
    fn session_of(&self, cluster: &str) -> Option<StatefulSessionPerRoute> {
        let host = cluster.rsplit('|').next()?;
        let service = self.services_of_host(host).into_iter().next()?;
        let meta = match service.source {
            Source::Service(object) => &object.meta,
            Source::Entry(object) => &object.meta,
        };
        of_labels(meta)
    }
}

fn clusters(action: &route::RouteAction) -> Vec<&str> {
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![name],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted.clusters.iter().map(|c| c.name.as_str()).collect()
        }
        _ => Vec::new(),
    }
}

fn of_labels(meta: &ObjectMeta) -> Option<StatefulSessionPerRoute> {
    let given = |label| meta.label(label).filter(|value| !value.is_empty());
    if let Some(name) = given(BY_COOKIE) {
        return Some(kept(by_cookie(name, "/", None, Vec::new())));
    }
    given(BY_HEADER).map(|name| kept(by_header(name)))
}

/// What a rule says, for the requests of one of its matches.
pub(super) fn of_rule(
    session: &SessionPersistence,
    candidate: &Candidate<'_>,
) -> StatefulSessionPerRoute {
    let unique = || {
        let meta = &candidate.object.meta;
        let kind = candidate.object.spec.kind.name();
        let place = format!(
            "{kind}/{}/{}/{}",
            meta.namespace, meta.name, candidate.index
        );
        format!("{:016x}", xx_hash(place.as_bytes()))
    };
    let name = session.name().map(str::to_owned);
    kept(match session.kind() {
        SessionType::Header => {
            by_header(&name.unwrap_or_else(|| format!("x-session-{}", unique())))
        }
        SessionType::Cookie => {
            let name = name.unwrap_or_else(|| format!("session-{}", unique()));
            let strict = CookieAttribute {
                name: "SameSite".to_owned(),
                value: "Strict".to_owned(),
            };
            let path = cookie_path(candidate.found);
            by_cookie(&name, path, session.lifetime(), vec![strict])
        }
    })
}

/// The part of a path that all requests of a match have, by segments.
fn cookie_path(found: &Match) -> &str {
    let path = path_value(found);
    if found.path.r#type != PathMatchType::RegularExpression {
        return path;
    }
    if path.contains('|') {
        return "/";
    }
    let literal = path
        .find(|c: char| !c.is_ascii_alphanumeric() && !"/-_~".contains(c))
        .map_or(path, |end| path.get(..end).unwrap_or_default());
    match literal.rsplit_once('/') {
        None | Some(("", _)) => "/",
        Some((segments, _)) => segments,
    }
}

fn by_cookie(
    name: &str,
    path: &str,
    lifetime: Option<Duration>,
    attributes: Vec<CookieAttribute>,
) -> (&'static str, Any) {
    let state = CookieBasedSessionState {
        cookie: Some(Cookie {
            name: name.to_owned(),
            path: path.to_owned(),
            ttl: lifetime.map(duration),
            attributes,
        }),
    };
    ("envoy.http.stateful_session.cookie", any(&state))
}

fn by_header(name: &str) -> (&'static str, Any) {
    let state = HeaderBasedSessionState {
        name: name.to_owned(),
    };
    ("envoy.http.stateful_session.header", any(&state))
}

fn kept((name, state): (&str, Any)) -> StatefulSessionPerRoute {
    StatefulSessionPerRoute {
        r#override: Some(Override::StatefulSession(StatefulSession {
            session_state: Some(TypedExtensionConfig {
                name: name.to_owned(),
                typed_config: Some(state),
            }),
            ..StatefulSession::default()
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standalone::kinds::gateway_api::http_route_match::PathMatch;

    #[test]
    fn a_cookie_is_for_the_paths_that_its_match_may_have() {
        use PathMatchType::{Exact, PathPrefix, RegularExpression};
        for (r#type, value, path) in [
            (PathPrefix, "/", "/"),
            (PathPrefix, "/shop/", "/shop"),
            (Exact, "/a/b", "/a/b"),
            (RegularExpression, "/p1/p2/.*/p3", "/p1/p2"),
            (RegularExpression, "/p1/p2*", "/p1"),
            (RegularExpression, "/p1", "/"),
            (RegularExpression, "/x/a|/y/b", "/"),
            (RegularExpression, ".*", "/"),
        ] {
            let found = Match {
                path: PathMatch {
                    r#type,
                    value: value.to_owned(),
                },
                ..Match::default()
            };
            assert_eq!(cookie_path(&found), path, "{value}");
        }
    }
}
