//! Policies with the action CUSTOM: rules that only tell whether they match (shadow rules of an RBAC filter), and behind
//! them the filter that asks the provider, if they do. They stand before tokens and before all other policies.
//!
//! What can't be asked is denied: without the provider, and where one chain has policies of several, of which
//! istiod lets it ask one, the rules deny what they match. A provider over HTTP is asked about requests only: on
//! connections that aren't HTTP such a policy does nothing, as with istiod, and that is told.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3 as http_authz;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3 as network_authz;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3 as http_status;

use crate::standalone::input::manifest::{Object, resource};
use crate::standalone::input::problem::{Problem, Severity};
use crate::standalone::kinds::core::extension_provider::{ExtAuthz, Grpc, Http, RequestBody};
use crate::standalone::kinds::istio::authorization_policy::{Action, AuthorizationPolicy};
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::clusters::extension_providers::Provider;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::duration;
use crate::standalone::translate::proto::packed::http_filter;
use crate::standalone::translate::proto::packed::network_filter;
use crate::standalone::translate::security::authorization::{HTTP_RBAC, NETWORK_RBAC, TCP_STATS};

const HTTP_EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";
const NETWORK_EXT_AUTHZ: &str = "envoy.filters.network.ext_authz";
/// What the rules' filter leaves in its metadata begins with this, then comes Envoy's own name.
const STAT_PREFIX: &str = "istio_ext_authz_";
const MATCHED: &str = "istio_ext_authz_shadow_effective_policy_id";
const DENIES: &str = "-deny-due-to-bad-CUSTOM-action";
const TIMEOUT: Duration = Duration::from_secs(600);

/// The policies of one provider on one chain.
struct Asking<'m> {
    /// With what their names begin, and so what the rules leave behind.
    prefix: String,
    rules: rbac::Rbac,
    /// `None`: nobody can be asked.
    provider: Option<Provider<'m>>,
}

impl<'a> Mesh<'a> {
    pub(crate) fn http_ext_authz(&self, service: Option<&MeshService<'_>>) -> Vec<hcm::HttpFilter> {
        let mut filters = Vec::new();
        for asking in self.asking(service, false) {
            let Some(provider) = asking.provider else {
                let denies = http_rbac::Rbac {
                    rules: Some(denying(asking.rules)),
                    ..http_rbac::Rbac::default()
                };
                filters.push(http_filter(HTTP_RBAC, any(&denies)));
                continue;
            };
            let tells = http_rbac::Rbac {
                shadow_rules: Some(asking.rules),
                shadow_rules_stat_prefix: STAT_PREFIX.to_owned(),
                ..http_rbac::Rbac::default()
            };
            let asks = http_authz::ExtAuthz {
                filter_enabled_metadata: Some(matched(HTTP_RBAC, asking.prefix)),
                ..of_requests(&provider)
            };
            filters.push(http_filter(HTTP_RBAC, any(&tells)));
            filters.push(http_filter(HTTP_EXT_AUTHZ, any(&asks)));
        }
        filters
    }

    pub(crate) fn network_ext_authz(
        &self,
        service: Option<&MeshService<'_>>,
    ) -> Vec<listener::Filter> {
        let mut filters = Vec::new();
        for asking in self.asking(service, true) {
            let base = network_rbac::Rbac {
                stat_prefix: TCP_STATS.to_owned(),
                ..network_rbac::Rbac::default()
            };
            let Some(provider) = asking.provider else {
                let denies = network_rbac::Rbac {
                    rules: Some(denying(asking.rules)),
                    ..base
                };
                filters.push(network_filter(NETWORK_RBAC, any(&denies)));
                continue;
            };
            let ExtAuthz::Grpc(grpc) = provider.settings else {
                continue;
            };
            let tells = network_rbac::Rbac {
                shadow_rules: Some(asking.rules),
                shadow_rules_stat_prefix: STAT_PREFIX.to_owned(),
                ..base
            };
            let asks = network_authz::ExtAuthz {
                stat_prefix: TCP_STATS.to_owned(),
                grpc_service: Some(grpc_service(&provider, grpc)),
                failure_mode_allow: grpc.fail_open,
                transport_api_version: core::ApiVersion::V3.into(),
                filter_enabled_metadata: Some(matched(NETWORK_RBAC, asking.prefix)),
                ..network_authz::ExtAuthz::default()
            };
            filters.push(network_filter(NETWORK_RBAC, any(&tells)));
            filters.push(network_filter(NETWORK_EXT_AUTHZ, any(&asks)));
        }
        filters
    }

    /// By the providers' names.
    fn asking(&self, service: Option<&MeshService<'_>>, for_tcp: bool) -> Vec<Asking<'_>> {
        let mut by_provider: BTreeMap<&str, Vec<&Object<AuthorizationPolicy>>> = BTreeMap::new();
        for policy in self.state.policies.values() {
            let (targets, namespace) = (&policy.spec.targets, &policy.meta.namespace);
            if policy.spec.action == Action::Custom
                && self.targets_chain(targets, namespace, service)
            {
                let provider = policy.spec.provider.as_deref().unwrap_or_default();
                by_provider.entry(provider).or_default().push(policy);
            }
        }
        let names: Vec<&str> = by_provider.keys().copied().collect();
        by_provider
            .iter()
            .map(|(name, policies)| {
                let provider = match names.as_slice() {
                    [_] => self.provider(name),
                    names => Err(format!(
                        "policies for the same requests ask several providers ({}), and only one can be asked",
                        names.join(", ")
                    )),
                };
                let provider = provider.inspect_err(|reason| {
                    policies.iter().for_each(|policy| self.report_denying(policy, reason));
                });
                let prefix = format!("istio-ext-authz-{name}");
                let rules = self.matching(&prefix, policies, for_tcp);
                Asking {
                    prefix,
                    rules,
                    provider: provider.ok(),
                }
            })
            .collect()
    }

    fn matching(
        &self,
        prefix: &str,
        policies: &[&Object<AuthorizationPolicy>],
        for_tcp: bool,
    ) -> rbac::Rbac {
        let mut found = HashMap::new();
        for policy in policies {
            for (key, translated) in self.translated_rules(policy, for_tcp) {
                found.insert(format!("{prefix}-{key}"), translated);
            }
        }
        rbac::Rbac {
            action: rbac::rbac::Action::Deny.into(),
            policies: found,
            ..rbac::Rbac::default()
        }
    }

    fn report_denying(&self, policy: &Object<AuthorizationPolicy>, reason: &str) {
        self.report(Problem {
            severity: Severity::FailClosed,
            resource: resource("AuthorizationPolicy", &policy.meta),
            origin: policy.origin.clone(),
            field: "spec.provider.name".to_owned(),
            reason: format!("{reason}: what its rules match is denied"),
        });
    }
}

/// The same rules, enforced.
fn denying(rules: rbac::Rbac) -> rbac::Rbac {
    let policies = rules.policies.into_iter();
    rbac::Rbac {
        policies: policies
            .map(|(key, policy)| (format!("{key}{DENIES}"), policy))
            .collect(),
        ..rules
    }
}

/// Holds where the filter of the rules found one of this provider's.
fn matched(filter: &str, prefix: String) -> matcher::MetadataMatcher {
    use matcher::metadata_matcher::path_segment::Segment;
    let segment = matcher::metadata_matcher::PathSegment {
        segment: Some(Segment::Key(MATCHED.to_owned())),
    };
    let begins = pattern(matcher::string_matcher::MatchPattern::Prefix(prefix), false);
    matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: vec![segment],
        value: Some(matcher::ValueMatcher {
            match_pattern: Some(matcher::value_matcher::MatchPattern::StringMatch(begins)),
        }),
        ..matcher::MetadataMatcher::default()
    }
}

fn of_requests(provider: &Provider<'_>) -> http_authz::ExtAuthz {
    use http_authz::ext_authz::Services;
    let (fail_open, clear_route_cache, body) = match provider.settings {
        ExtAuthz::Grpc(grpc) => (
            grpc.fail_open,
            grpc.clear_route_cache,
            grpc.include_request_body_in_check,
        ),
        ExtAuthz::Http(http) => (
            http.fail_open,
            http.clear_route_cache,
            http.include_request_body_in_check,
        ),
    };
    let status = provider.settings.status_on_error();
    let (services, allowed_headers) = match provider.settings {
        ExtAuthz::Grpc(grpc) => (Services::GrpcService(grpc_service(provider, grpc)), None),
        ExtAuthz::Http(http) => (
            Services::HttpService(http_service(provider, http)),
            names(http.request_headers()),
        ),
    };
    http_authz::ExtAuthz {
        transport_api_version: core::ApiVersion::V3.into(),
        failure_mode_allow: fail_open,
        with_request_body: body.map(buffered),
        clear_route_cache,
        status_on_error: status.map(|code| http_status::HttpStatus { code: code.into() }),
        allowed_headers,
        services: Some(services),
        ..http_authz::ExtAuthz::default()
    }
}

fn buffered(body: RequestBody) -> http_authz::BufferSettings {
    http_authz::BufferSettings {
        max_request_bytes: body.max_request_bytes,
        allow_partial_message: body.allow_partial_message,
        pack_as_bytes: body.pack_as_bytes,
    }
}

fn grpc_service(provider: &Provider<'_>, grpc: &Grpc) -> core::GrpcService {
    let envoy = core::grpc_service::EnvoyGrpc {
        cluster_name: provider.cluster.clone(),
        authority: provider.hostname.clone(),
        ..core::grpc_service::EnvoyGrpc::default()
    };
    core::GrpcService {
        timeout: Some(duration(grpc.timeout.unwrap_or(TIMEOUT))),
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(envoy)),
        ..core::GrpcService::default()
    }
}

fn http_service(provider: &Provider<'_>, http: &Http) -> http_authz::HttpService {
    let uri = core::HttpUri {
        uri: format!("http://{}", provider.hostname),
        timeout: Some(duration(http.timeout.unwrap_or(TIMEOUT))),
        http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(
            provider.cluster.clone(),
        )),
    };
    let added = http.include_additional_headers_in_check.iter();
    let headers_to_add: Vec<core::HeaderValue> = added
        .map(|(name, value)| core::HeaderValue {
            key: name.clone(),
            value: value.clone(),
            ..core::HeaderValue::default()
        })
        .collect();
    let request = http_authz::AuthorizationRequest {
        headers_to_add,
        ..http_authz::AuthorizationRequest::default()
    };
    let response = http_authz::AuthorizationResponse {
        allowed_upstream_headers: names(&http.headers_to_upstream_on_allow),
        allowed_client_headers: names(&http.headers_to_downstream_on_deny),
        allowed_client_headers_on_success: names(&http.headers_to_downstream_on_allow),
        ..http_authz::AuthorizationResponse::default()
    };
    let said = |request: &http_authz::AuthorizationRequest| !request.headers_to_add.is_empty();
    let passes = |response: &http_authz::AuthorizationResponse| {
        *response != http_authz::AuthorizationResponse::default()
    };
    http_authz::HttpService {
        server_uri: Some(uri),
        path_prefix: http.path_prefix.clone(),
        authorization_request: Some(request).filter(said),
        authorization_response: Some(response).filter(passes),
        ..http_authz::HttpService::default()
    }
}

/// Names of headers, or their beginnings or ends (`x-*`, `*-x`).
fn names(headers: &[String]) -> Option<matcher::ListStringMatcher> {
    use matcher::string_matcher::MatchPattern;
    let one = |header: &String| {
        let found = if let Some(suffix) = header.strip_prefix('*') {
            MatchPattern::Suffix(suffix.to_owned())
        } else if let Some(prefix) = header.strip_suffix('*') {
            MatchPattern::Prefix(prefix.to_owned())
        } else {
            MatchPattern::Exact(header.clone())
        };
        pattern(found, true)
    };
    let patterns: Vec<matcher::StringMatcher> = headers.iter().map(one).collect();
    (!patterns.is_empty()).then_some(matcher::ListStringMatcher { patterns })
}

fn pattern(
    pattern: matcher::string_matcher::MatchPattern,
    ignore_case: bool,
) -> matcher::StringMatcher {
    matcher::StringMatcher {
        ignore_case,
        match_pattern: Some(pattern),
    }
}
