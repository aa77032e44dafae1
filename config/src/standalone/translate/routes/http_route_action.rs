//! What the rule of an HTTPRoute, or of a GRPCRoute, does with a request.
//!
//! A rule with a filter that isn't honoured answers 500: a request that the filter should have seen must
//! not pass without it. (istiod drops the whole route instead, and the service's default route takes
//! its requests.)

use std::collections::HashMap;

use envoy_types::pb::envoy::config::route::v3 as route;

use crate::standalone::input::manifest::resource;
use crate::standalone::input::problem::{Problem, Severity};
use crate::standalone::kinds::core::config_map::RetryPolicy;
use crate::standalone::kinds::gateway_api::backend_object::BackendObject;
use crate::standalone::kinds::gateway_api::http_route::Rule;
use crate::standalone::kinds::gateway_api::http_route_filter::{Filter, Mirror};
use crate::standalone::kinds::gateway_api::session_persistence::SessionPersistence;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::duration;
use crate::standalone::translate::proto::packed::fields;
use crate::standalone::translate::proto::packed::metadata;
use crate::standalone::translate::proto::packed::text;
use crate::standalone::translate::proto::packed::uint32;
use crate::standalone::translate::routes::hash_policy;
use crate::standalone::translate::routes::http_route_filters::{
    apply_rewrite, cors_policy, headers_to_add, host_header, host_rewrite, mirror_policy,
    redirect_action,
};
use crate::standalone::translate::routes::http_routes::{Candidate, route_match};
use crate::standalone::translate::routes::sessions::{SESSIONS, of_rule};
use crate::standalone::translate::routes::{decorator, internal_error, without_timeout};

impl Rule {
    pub(crate) fn mirrors(&self) -> impl Iterator<Item = &Mirror> {
        self.filters.iter().filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(mirror),
            _ => None,
        })
    }

    /// A filter or field that isn't honoured, if there is one: where it stands, and what it is.
    fn not_honoured(&self) -> Option<(String, String)> {
        let of_filters = |filters: &[Filter], path: &str, on_backend: bool| {
            filters.iter().enumerate().find_map(|(index, filter)| {
                let name = match filter {
                    Filter::NotHonoured(name) => name.clone(),
                    Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) => return None,
                    Filter::Redirect(_) if on_backend => "RequestRedirect".to_owned(),
                    Filter::Rewrite(_) if on_backend => "URLRewrite".to_owned(),
                    Filter::Mirror(_) if on_backend => "RequestMirror".to_owned(),
                    Filter::Cors(_) if on_backend => "CORS".to_owned(),
                    _ => return None,
                };
                Some((
                    format!("{path}filters[{index}]"),
                    format!("filter {name} is not honoured here"),
                ))
            })
        };
        let on_backends = self
            .backends
            .iter()
            .enumerate()
            .find_map(|(index, backend)| {
                of_filters(&backend.filters, &format!("backendRefs[{index}]."), true)
            });
        of_filters(&self.filters, "", false).or(on_backends)
    }
}

impl Mesh<'_> {
    /// One route. `list` is the name of the internal VirtualService, in `namespace`.
    pub(crate) fn http_route(
        &self,
        candidate: &Candidate<'_>,
        list: &str,
        namespace: &str,
        port: u16,
    ) -> route::Route {
        let meta = &candidate.object.meta;
        let name = match &candidate.rule.name {
            Some(name) => name.clone(),
            None => format!("{}.{}.{}", meta.namespace, meta.name, candidate.index),
        };
        let config =
            format!("/apis/networking.istio.io/v1/namespaces/{namespace}/virtual-service/{list}");
        let mut found = route::Route {
            name,
            r#match: Some(route_match(candidate.found)),
            metadata: Some(metadata([("istio", fields([("config", text(&config))]))])),
            ..route::Route::default()
        };
        self.report_unheeded(candidate);
        if let Some((field, reason)) = candidate.rule.not_honoured() {
            self.report(problem(candidate, Severity::FailClosed, &field, reason));
            found.action = Some(internal_error());
        } else {
            self.apply(candidate, port, &mut found);
        }
        found.decorator = Some(decorator(operation(&found, list, port)));
        self.or_internal_error(found, |reason| {
            problem(candidate, Severity::FailClosed, "filters", reason)
        })
    }

    fn report_unheeded(&self, candidate: &Candidate<'_>) {
        let session = candidate.rule.session.as_ref();
        if session.is_some_and(SessionPersistence::has_unheeded_timeout) {
            let reason = "is not honoured: a session ends when its client ends it; a cookie of lifetimeType Permanent has an end";
            let field = "sessionPersistence.absoluteTimeout";
            self.report(problem(
                candidate,
                Severity::Ignored,
                field,
                reason.to_owned(),
            ));
        }
    }

    fn apply(&self, candidate: &Candidate<'_>, port: u16, found: &mut route::Route) {
        let rule = candidate.rule;
        for filter in &rule.filters {
            match filter {
                Filter::RequestHeaders(modifier) => {
                    found.request_headers_to_add = headers_to_add(modifier);
                    found.request_headers_to_remove = modifier.remove.clone();
                }
                Filter::ResponseHeaders(modifier) => {
                    found.response_headers_to_add = headers_to_add(modifier);
                    found.response_headers_to_remove = modifier.remove.clone();
                }
                Filter::Cors(cors) => {
                    found.typed_per_filter_config = HashMap::from([(
                        "envoy.filters.http.cors".to_owned(),
                        any(&cors_policy(cors)),
                    )]);
                }
                Filter::Redirect(_)
                | Filter::Rewrite(_)
                | Filter::Mirror(_)
                | Filter::NotHonoured(_) => {}
            }
        }
        if let Some(session) = &rule.session {
            let config = (SESSIONS.to_owned(), any(&of_rule(session, candidate)));
            found.typed_per_filter_config.extend([config]);
        }
        let redirect = rule.filters.iter().find_map(|filter| match filter {
            Filter::Redirect(redirect) => Some(redirect),
            _ => None,
        });
        found.action = Some(match redirect {
            Some(redirect) => {
                route::route::Action::Redirect(redirect_action(redirect, candidate.found, port))
            }
            None if rule.backends.iter().all(|backend| backend.weight == 0) => internal_error(),
            None => route::route::Action::Route(self.forward(candidate, found)),
        });
    }

    fn forward(&self, candidate: &Candidate<'_>, found: &mut route::Route) -> route::RouteAction {
        let rule = candidate.rule;
        let cluster_of = |backend: &BackendObject| {
            let namespace = &candidate.object.meta.namespace;
            let kind = candidate.object.spec.kind.name();
            self.backend_cluster(backend, kind, namespace, candidate.parent)
        };
        let mut action = with_timeouts(rule);
        action.cluster_not_found_response_code =
            route::route_action::ClusterNotFoundResponseCode::InternalServerError.into();
        action.retry_policy = self.retry_policy(retries(rule).as_ref());
        for filter in &rule.filters {
            match filter {
                Filter::Rewrite(rewrite) => apply_rewrite(rewrite, candidate.found, &mut action),
                Filter::RequestHeaders(modifier) => {
                    if let Some(host) = host_header(modifier)
                        && action.host_rewrite_specifier.is_none()
                    {
                        action.host_rewrite_specifier = host_rewrite(host);
                    }
                }
                Filter::Mirror(mirror) => {
                    let cluster = cluster_of(&mirror.backend_ref);
                    action
                        .request_mirror_policies
                        .extend(mirror_policy(mirror, cluster));
                }
                _ => {}
            }
        }
        // A session that began at a backend stays there, whatever its weight is by then.
        let keeps = rule.session.is_some();
        let weighted: Vec<_> = rule
            .backends
            .iter()
            .filter(|backend| backend.weight > 0 || keeps)
            .collect();
        let hash_of = |backend: &BackendObject| {
            let namespace = &candidate.object.meta.namespace;
            let (host, namespace) = self.host_of(backend, namespace)?;
            self.destination_hash(&host, &namespace, backend.port, None)
        };
        let hashes = weighted
            .iter()
            .filter_map(|backend| hash_of(&backend.object));
        action.hash_policy = hashes.filter_map(hash_policy::of_requests).collect();
        if let [only] = weighted.as_slice()
            && hash_of(&only.object).is_some()
        {
            action.retry_policy = self.retry_policy_of_hash(retries(rule).as_ref());
        }
        if let [only] = weighted.as_slice() {
            for filter in &only.filters {
                match filter {
                    Filter::RequestHeaders(modifier) => {
                        found
                            .request_headers_to_add
                            .extend(headers_to_add(modifier));
                        found
                            .request_headers_to_remove
                            .extend(modifier.remove.iter().cloned());
                        if let (Some(host), None) =
                            (host_header(modifier), &action.host_rewrite_specifier)
                        {
                            action.host_rewrite_specifier = host_rewrite(host);
                        }
                    }
                    Filter::ResponseHeaders(modifier) => {
                        found
                            .response_headers_to_add
                            .extend(headers_to_add(modifier));
                        found
                            .response_headers_to_remove
                            .extend(modifier.remove.iter().cloned());
                    }
                    _ => {}
                }
            }
            let cluster = cluster_of(&only.object);
            action.cluster_specifier =
                Some(route::route_action::ClusterSpecifier::Cluster(cluster));
            return action;
        }
        let clusters = weighted.into_iter().map(|backend| {
            let mut weight = route::weighted_cluster::ClusterWeight {
                name: cluster_of(&backend.object),
                weight: uint32(backend.weight),
                ..Default::default()
            };
            for filter in &backend.filters {
                match filter {
                    Filter::RequestHeaders(modifier) => {
                        weight.request_headers_to_add = headers_to_add(modifier);
                        weight.request_headers_to_remove = modifier.remove.clone();
                        weight.host_rewrite_specifier = host_header(modifier).map(|host| {
                            route::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(
                                host.to_owned(),
                            )
                        });
                    }
                    Filter::ResponseHeaders(modifier) => {
                        weight.response_headers_to_add = headers_to_add(modifier);
                        weight.response_headers_to_remove = modifier.remove.clone();
                    }
                    _ => {}
                }
            }
            weight
        });
        let clusters = route::WeightedCluster {
            clusters: clusters.collect(),
            ..Default::default()
        };
        action.cluster_specifier = Some(route::route_action::ClusterSpecifier::WeightedClusters(
            clusters,
        ));
        action
    }
}

fn problem(candidate: &Candidate<'_>, severity: Severity, field: &str, reason: String) -> Problem {
    Problem {
        severity,
        resource: resource(candidate.object.spec.kind.name(), &candidate.object.meta),
        origin: candidate.object.origin.clone(),
        field: format!("spec.rules[{}].{field}", candidate.index),
        reason,
    }
}

/// How traces call the route: its only destination, else the list that it stands in.
pub(super) fn operation(found: &route::Route, list: &str, port: u16) -> String {
    use route::route_match::PathSpecifier;
    let path = match found
        .r#match
        .as_ref()
        .and_then(|found| found.path_specifier.as_ref())
    {
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::Path(path)) => path.clone(),
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex.clone(),
        _ => "/*".to_owned(),
    };
    if let Some(route::route::Action::Route(action)) = &found.action
        && let Some(route::route_action::ClusterSpecifier::Cluster(cluster)) =
            &action.cluster_specifier
        && let [_, port, _, hostname] = cluster.split('|').collect::<Vec<_>>().as_slice()
    {
        return format!("{hostname}:{port}{path}");
    }
    format!("{list}:{port}{path}")
}

#[allow(deprecated)] // istiod still sends max_grpc_timeout
fn with_timeouts(rule: &Rule) -> route::RouteAction {
    let request = rule.request_timeout.filter(|timeout| !timeout.is_zero());
    // With retries it is the time of one try.
    let backend = rule
        .backend_timeout
        .filter(|timeout| !timeout.is_zero() && rule.retry.is_none());
    match backend.or(request).map(duration) {
        None => without_timeout(),
        timeout => route::RouteAction {
            timeout,
            max_grpc_timeout: timeout,
            ..route::RouteAction::default()
        },
    }
}

fn retries(rule: &Rule) -> Option<RetryPolicy> {
    let retry = rule.retry.as_ref()?;
    let mut retry_on = "connect-failure,refused-stream,unavailable,cancelled".to_owned();
    for code in &retry.codes {
        retry_on.push_str(&format!(",{code}"));
    }
    Some(RetryPolicy {
        attempts: retry
            .attempts
            .map_or(2, |attempts| i32::try_from(attempts).unwrap_or(i32::MAX)),
        retry_on,
        per_try_timeout: rule.backend_timeout.filter(|timeout| !timeout.is_zero()),
        backoff: retry.backoff(),
        retry_ignore_previous_hosts: None,
        retry_remote_localities: None,
    })
}
