//! Route configurations of service chains, inline in their connection managers.
//!
//! The Host header plays no part: address and port of the service have chosen the chain, so there is one
//! virtual host for all domains. Without an HTTPRoute there is one route to the service itself.

mod hash_policy;
mod http_route_action;
mod http_route_filters;
pub(super) mod http_routes;
mod path_modifier;
pub(super) mod route_backends;
pub(super) mod sessions;
pub(super) mod stream_routes;
mod virtual_service_match;
mod virtual_service_policies;
pub(super) mod virtual_service_routes;
mod virtual_service_streams;

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::pb::google::protobuf::Any;

use crate::model::route::check;
use crate::standalone::input::problem::Problem;
use crate::standalone::kinds::core::config_map::RetryPolicy;
use crate::standalone::state::mesh_service::{MeshPort, MeshService};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::boolean;
use crate::standalone::translate::proto::packed::duration;
use crate::standalone::translate::proto::packed::seconds;
use crate::standalone::translate::proto::packed::uint32;
use crate::standalone::translate::routes::sessions::SESSIONS;

const DEFAULT_RETRY_ON: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const DEFAULT_RETRIES: u32 = 2;
const RETRIABLE_STATUS_CODES: &str = "retriable-status-codes";
/// Bodies of direct responses on default routes may be this long.
const DIRECT_RESPONSE_BYTES: u32 = 1 << 20;

pub(super) const CORS: &str = "envoy.filters.http.cors";
pub(super) const FAULT: &str = "envoy.filters.http.fault";

/// The HTTP filters of every chain that routes have configuration for.
fn per_route_filters() -> [(String, Any); 3] {
    [
        (SESSIONS.to_owned(), any(&StatefulSession::default())),
        (FAULT.to_owned(), any(&HttpFault::default())),
        (CORS.to_owned(), any(&Cors {})),
    ]
}

impl Mesh<'_> {
    /// Routes of an owned service's port: its HTTPRoutes and VirtualServices, else straight to its cluster.
    pub(super) fn service_routes(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
        cluster: &str,
    ) -> route::RouteConfiguration {
        let mut found = self.http_routes(service, port);
        found.extend(self.virtual_service_routes(service, port));
        found.sort_by(|a, b| a.order.cmp(&b.order));
        let for_some = found
            .iter()
            .all(|found| found.for_some || found.routes.is_empty());
        let mut routes: Vec<_> = found.into_iter().flat_map(|found| found.routes).collect();
        self.keep_sessions_of_services(&mut routes);
        // Those for whom there is no route go straight to the service.
        if for_some {
            let mut default = self.default_routes(cluster, &service.hostname, port.number);
            let hosts = default.virtual_hosts.iter_mut();
            hosts.for_each(|host| self.keep_sessions_of_services(&mut host.routes));
            let hash = self
                .service_hash(service)
                .and_then(hash_policy::of_requests);
            let forwarding = default
                .virtual_hosts
                .iter_mut()
                .flat_map(|host| &mut host.routes);
            for action in forwarding.filter_map(|route| route.action.as_mut()) {
                if let route::route::Action::Route(action) = action {
                    action.hash_policy = hash.iter().cloned().collect();
                }
            }
            for host in &mut default.virtual_hosts {
                routes.append(&mut host.routes);
                host.routes = std::mem::take(&mut routes);
            }
            return default;
        }
        configuration(cluster, port.number, routes)
    }

    pub(super) fn default_routes(
        &self,
        cluster: &str,
        hostname: &str,
        port: u16,
    ) -> route::RouteConfiguration {
        let to_cluster = route::Route {
            name: "default".to_owned(),
            r#match: Some(everything()),
            decorator: Some(decorator(format!("{hostname}:{port}/*"))),
            action: Some(route::route::Action::Route(route::RouteAction {
                retry_policy: self.retry_policy(None),
                cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(
                    cluster.to_owned(),
                )),
                ..without_timeout()
            })),
            ..route::Route::default()
        };
        route::RouteConfiguration {
            max_direct_response_body_size_bytes: uint32(DIRECT_RESPONSE_BYTES),
            ..configuration(cluster, port, vec![to_cluster])
        }
    }

    /// The route, if it will be honoured. One that isn't would close its whole service: it answers 500
    /// instead, and costs its own requests only.
    fn or_internal_error(
        &self,
        found: route::Route,
        problem: impl FnOnce(String) -> Problem,
    ) -> route::Route {
        let Err(refusal) = check(&found, &per_route_filters()) else {
            return found;
        };
        self.report(problem(format!(
            "its requests are answered 500, for {refusal}"
        )));
        route::Route {
            name: found.name,
            r#match: found.r#match,
            metadata: found.metadata,
            decorator: found.decorator,
            action: Some(internal_error()),
            ..route::Route::default()
        }
    }

    /// A route's retry policy: its own, else the mesh's, else the default. `None`: no retries.
    pub(super) fn retry_policy(&self, own: Option<&RetryPolicy>) -> Option<route::RetryPolicy> {
        retry_policy(own.or(self.config.default_http_retry_policy.as_ref()))
    }

    /// The retry policy of a route whose only destination chooses by hash: the same endpoint is asked again, unless
    /// somebody says otherwise.
    pub(super) fn retry_policy_of_hash(
        &self,
        own: Option<&RetryPolicy>,
    ) -> Option<route::RetryPolicy> {
        let mut found = self.retry_policy(own)?;
        let effective = own.or(self.config.default_http_retry_policy.as_ref());
        let says = effective.and_then(|policy| policy.retry_ignore_previous_hosts);
        if says != Some(true) {
            found.retry_host_predicate.clear();
        }
        Some(found)
    }
}

fn internal_error() -> route::route::Action {
    route::route::Action::DirectResponse(route::DirectResponseAction {
        status: 500,
        ..route::DirectResponseAction::default()
    })
}

fn retry_policy(policy: Option<&RetryPolicy>) -> Option<route::RetryPolicy> {
    let previous_hosts = route::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(
            route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
                &PreviousHostsPredicate {},
            )),
        ),
    };
    let mut retries = route::RetryPolicy {
        retry_on: DEFAULT_RETRY_ON.to_owned(),
        num_retries: uint32(DEFAULT_RETRIES),
        retry_host_predicate: vec![previous_hosts],
        host_selection_retry_max_attempts: 5,
        ..route::RetryPolicy::default()
    };
    let Some(policy) = policy else {
        return Some(retries);
    };
    retries.num_retries = uint32(
        u32::try_from(policy.attempts)
            .ok()
            .filter(|attempts| *attempts > 0)?,
    );
    if !policy.retry_on.is_empty() {
        (retries.retry_on, retries.retriable_status_codes) = retry_on(&policy.retry_on);
    }
    if policy.retry_ignore_previous_hosts == Some(false) {
        retries.retry_host_predicate.clear();
    }
    if policy.retry_remote_localities == Some(true) {
        retries.retry_priority = Some(other_priorities());
    }
    retries.per_try_timeout = policy.per_try_timeout.map(duration);
    retries.retry_back_off = policy
        .backoff
        .map(|interval| route::retry_policy::RetryBackOff {
            base_interval: Some(duration(interval)),
            ..route::retry_policy::RetryBackOff::default()
        });
    Some(retries)
}

/// After two tries endpoints of other localities.
fn other_priorities() -> route::retry_policy::RetryPriority {
    let config = PreviousPrioritiesConfig {
        update_frequency: 2,
    };
    route::retry_policy::RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(
            route::retry_policy::retry_priority::ConfigType::TypedConfig(any(&config)),
        ),
    }
}

/// Conditions, and the status codes among them.
fn retry_on(text: &str) -> (String, Vec<u32>) {
    let mut codes = Vec::new();
    let mut conditions = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        match part.parse::<u16>() {
            Ok(code) if (100..600).contains(&code) => codes.push(code.into()),
            _ => conditions.push(part),
        }
    }
    if !codes.is_empty() && !conditions.contains(&RETRIABLE_STATUS_CODES) {
        conditions.push(RETRIABLE_STATUS_CODES);
    }
    (conditions.join(","), codes)
}

fn configuration(cluster: &str, port: u16, routes: Vec<route::Route>) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: cluster.to_owned(),
        virtual_hosts: vec![route::VirtualHost {
            name: format!("inbound|http|{port}"),
            domains: vec!["*".to_owned()],
            routes,
            ..route::VirtualHost::default()
        }],
        // A route may name a cluster that isn't there.
        validate_clusters: boolean(false),
        ..route::RouteConfiguration::default()
    }
}

pub(super) fn everything() -> route::RouteMatch {
    route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
        ..route::RouteMatch::default()
    }
}

pub(super) fn decorator(operation: String) -> route::Decorator {
    route::Decorator {
        operation,
        ..route::Decorator::default()
    }
}

#[allow(deprecated)] // istiod still sends it
pub(super) fn without_timeout() -> route::RouteAction {
    route::RouteAction {
        timeout: seconds(0),
        max_grpc_timeout: seconds(0),
        ..route::RouteAction::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn retries() {
        let policy = |attempts, retry_on: &str| {
            retry_policy(Some(&RetryPolicy {
                attempts,
                retry_on: retry_on.to_owned(),
                ..RetryPolicy::default()
            }))
        };
        assert_eq!(retry_policy(None).unwrap().num_retries, uint32(2));
        assert_eq!(policy(0, ""), None);
        assert_eq!(policy(-1, "5xx"), None);
        let found = policy(3, "503, reset,999").unwrap();
        assert_eq!(found.retry_on, "reset,999,retriable-status-codes");
        assert_eq!(found.retriable_status_codes, [503]);
        assert_eq!(policy(1, "").unwrap().retry_on, DEFAULT_RETRY_ON);
    }
}
