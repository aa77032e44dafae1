//! Route configurations of service chains, inline in their connection managers.
//!
//! The Host header plays no part: address and port of the service have chosen the chain, so there is one
//! virtual host for all domains. Without an HTTPRoute there is one route to the service itself.

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

use crate::standalone::kinds::core::config_map::RetryPolicy;
use crate::standalone::state::mesh_service::{MeshPort, MeshService};
use crate::standalone::translate::Mesh;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::boolean;
use crate::standalone::translate::proto::packed::duration;
use crate::standalone::translate::proto::packed::seconds;
use crate::standalone::translate::proto::packed::uint32;

const DEFAULT_RETRY_ON: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const DEFAULT_RETRIES: u32 = 2;
const RETRIABLE_STATUS_CODES: &str = "retriable-status-codes";
/// Bodies of direct responses on default routes may be this long.
const DIRECT_RESPONSE_BYTES: u32 = 1 << 20;

impl Mesh<'_> {
    /// Routes of an owned service's port: its HTTPRoutes, else straight to its cluster.
    pub(super) fn service_routes(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
        cluster: &str,
    ) -> route::RouteConfiguration {
        let routes = self.http_routes(service, port);
        if routes.is_empty() {
            return self.default_routes(cluster, &service.hostname, port.number);
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

    /// A route's retry policy: its own, else the mesh's, else the default. `None`: no retries.
    pub(super) fn retry_policy(&self, own: Option<&RetryPolicy>) -> Option<route::RetryPolicy> {
        retry_policy(own.or(self.config.default_http_retry_policy.as_ref()))
    }
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
    retries.per_try_timeout = policy.per_try_timeout.map(duration);
    retries.retry_back_off = policy
        .backoff
        .map(|interval| route::retry_policy::RetryBackOff {
            base_interval: Some(duration(interval)),
            ..route::retry_policy::RetryBackOff::default()
        });
    Some(retries)
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
