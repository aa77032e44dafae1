//! Resources in which external authorization is asked for, as an istiod makes them of CUSTOM policies.

use crate::mesh::Mesh;
use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, GrpcService, HttpUri, grpc_service, http_uri,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{ExtAuthz, HttpService};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as TcpExtAuthz;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as TcpRbac;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListStringMatcher, MetadataMatcher, PathMatcher, StringMatcher, ValueMatcher,
    metadata_matcher::{PathSegment, path_segment::Segment},
    path_matcher,
    string_matcher::MatchPattern,
    value_matcher,
};
use envoy_types::pb::google::protobuf::{Any, Duration as DurationProto};
use prost::{Message, Name};
use std::collections::HashMap;
use waypoint_config::resource::{Resource, ResourceType};

/// A gRPC service of this cluster, with 5 s of time.
#[must_use]
pub fn grpc_service(cluster: &str) -> GrpcService {
    let grpc = grpc_service::EnvoyGrpc {
        cluster_name: cluster.into(),
        authority: "authz.default.svc.cluster.local".into(),
        ..grpc_service::EnvoyGrpc::default()
    };
    GrpcService {
        timeout: Some(seconds(5)),
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc)),
        ..GrpcService::default()
    }
}

/// An HTTP service of this cluster, with 5 s of time.
#[must_use]
pub fn http_service(cluster: &str) -> HttpService {
    HttpService {
        server_uri: Some(HttpUri {
            uri: "http://authz.default.svc.cluster.local".into(),
            timeout: Some(seconds(5)),
            http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(cluster.into())),
        }),
        ..HttpService::default()
    }
}

#[must_use]
pub fn seconds(seconds: i64) -> DurationProto {
    DurationProto { seconds, nanos: 0 }
}

/// The filter for a gRPC service.
#[must_use]
pub fn asks_grpc(cluster: &str) -> ExtAuthz {
    ExtAuthz {
        transport_api_version: ApiVersion::V3.into(),
        services: Some(Services::GrpcService(grpc_service(cluster))),
        ..ExtAuthz::default()
    }
}

/// The filter for an HTTP service.
#[must_use]
pub fn asks_http(service: HttpService) -> ExtAuthz {
    ExtAuthz {
        transport_api_version: ApiVersion::V3.into(),
        services: Some(Services::HttpService(service)),
        ..ExtAuthz::default()
    }
}

/// The network filter.
#[must_use]
pub fn asks_of_tcp(cluster: &str) -> TcpExtAuthz {
    TcpExtAuthz {
        stat_prefix: "tcp.".into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_service: Some(grpc_service(cluster)),
        ..TcpExtAuthz::default()
    }
}

/// Names as they are, and, with a `*` behind it, what names begin with.
#[must_use]
pub fn names(patterns: &[&str]) -> ListStringMatcher {
    let pattern = |text: &&str| StringMatcher {
        ignore_case: true,
        match_pattern: Some(match text.strip_suffix('*') {
            Some(prefix) => MatchPattern::Prefix(prefix.into()),
            None => MatchPattern::Exact((*text).into()),
        }),
    };
    ListStringMatcher {
        patterns: patterns.iter().map(pattern).collect(),
    }
}

/// The key of the policy that a `CUSTOM` rule of this provider matched.
const POLICY: &str = "istio_ext_authz_shadow_effective_policy_id";

/// As istiod has it: asked is where a rule of this provider matched.
#[must_use]
pub fn where_a_rule_matched(filter: &str, provider: &str) -> MetadataMatcher {
    let prefix = MatchPattern::Prefix(format!("istio-ext-authz-{provider}"));
    MetadataMatcher {
        filter: filter.into(),
        path: vec![PathSegment {
            segment: Some(Segment::Key(POLICY.into())),
        }],
        value: Some(ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::StringMatch(StringMatcher {
                match_pattern: Some(prefix),
                ..StringMatcher::default()
            })),
        }),
        ..MetadataMatcher::default()
    }
}

/// The rules of a provider's `CUSTOM` policies: what has a path that begins so; `None`: all.
#[must_use]
pub fn rules(provider: &str, path: Option<&str>) -> rbac::Rbac {
    let permission = path.map_or(rbac::permission::Rule::Any(true), |path| {
        let path = StringMatcher {
            match_pattern: Some(MatchPattern::Prefix(path.into())),
            ..StringMatcher::default()
        };
        rbac::permission::Rule::UrlPath(PathMatcher {
            rule: Some(path_matcher::Rule::Path(path)),
        })
    });
    let policy = rbac::Policy {
        permissions: vec![rbac::Permission {
            rule: Some(permission),
        }],
        principals: vec![rbac::Principal {
            identifier: Some(rbac::principal::Identifier::Any(true)),
        }],
        ..rbac::Policy::default()
    };
    let name = format!("istio-ext-authz-{provider}-ns[default]-policy[ask]-rule[0]");
    rbac::Rbac {
        action: rbac::rbac::Action::Deny.into(),
        policies: HashMap::from([(name, policy)]),
        ..rbac::Rbac::default()
    }
}

/// What a provider's `CUSTOM` policies become: shadow rules, and the filter that asks where one matched.
#[must_use]
pub fn custom(provider: &str, path: Option<&str>, mut asks: ExtAuthz) -> [HttpFilter; 2] {
    let shadow = Rbac {
        shadow_rules: Some(rules(provider, path)),
        shadow_rules_stat_prefix: "istio_ext_authz_".into(),
        ..Rbac::default()
    };
    asks.filter_enabled_metadata = Some(where_a_rule_matched("envoy.filters.http.rbac", provider));
    [
        http_filter("envoy.filters.http.rbac", &shadow),
        http_filter("envoy.filters.http.ext_authz", &asks),
    ]
}

/// The same of a TCP port.
#[must_use]
pub fn custom_tcp(provider: &str, mut asks: TcpExtAuthz) -> [Filter; 2] {
    let shadow = TcpRbac {
        stat_prefix: "tcp.".into(),
        shadow_rules: Some(rules(provider, None)),
        shadow_rules_stat_prefix: "istio_ext_authz_".into(),
        ..TcpRbac::default()
    };
    asks.filter_enabled_metadata =
        Some(where_a_rule_matched("envoy.filters.network.rbac", provider));
    [
        tcp_filter("envoy.filters.network.rbac", &shadow),
        tcp_filter("envoy.filters.network.ext_authz", &asks),
    ]
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

pub fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..HttpFilter::default()
    }
}

pub fn tcp_filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter {
        name: name.into(),
        config_type: Some(filter::ConfigType::TypedConfig(any(config))),
    }
}

/// The name of a service's cluster.
///
/// # Panics
/// There is none.
#[must_use]
pub fn cluster_of(mesh: &Mesh, service: &str) -> String {
    let resources = mesh.resources();
    let clusters = resources
        .iter()
        .filter(|resource| resource.kind == ResourceType::Cluster);
    let mut names = clusters.map(|resource| resource.name.clone());
    let part = format!("|{service}.default.");
    names.find(|name| name.contains(&part)).unwrap()
}

/// The mesh's resources, where these filters stand before all others of a service's connection manager, which `change`
/// may change further.
#[must_use]
pub fn guarded(
    mesh: &Mesh,
    service: &str,
    filters: Vec<HttpFilter>,
    change: impl Fn(&mut HttpConnectionManager),
) -> Vec<Resource> {
    let mut changed = 0;
    let resources = with_chains(mesh, service, |chain| {
        for filter in &mut chain.filters {
            if let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type
                && any.type_url.ends_with(".HttpConnectionManager")
            {
                let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
                manager.http_filters.splice(..0, filters.iter().cloned());
                change(&mut manager);
                any.value = manager.encode_to_vec();
                changed += 1;
            }
        }
    });
    assert_eq!(changed, 1);
    resources
}

/// The mesh's resources, where these filters stand before all others of a service's TCP port.
#[must_use]
pub fn guarded_tcp(mesh: &Mesh, service: &str, filters: &[Filter]) -> Vec<Resource> {
    with_chains(mesh, service, |chain| {
        chain.filters.splice(..0, filters.iter().cloned());
    })
}

fn with_chains(
    mesh: &Mesh,
    service: &str,
    mut change: impl FnMut(&mut FilterChain),
) -> Vec<Resource> {
    let mut resources = mesh.resources();
    let part = format!("|{service}.default.");
    for resource in &mut resources {
        if resource.kind == ResourceType::Listener && resource.name == "main_internal" {
            let mut listener = Listener::decode(resource.body.clone()).unwrap();
            let chains = listener.filter_chains.iter_mut();
            for chain in chains.filter(|chain| chain.name.contains(&part)) {
                change(chain);
            }
            resource.body = listener.encode_to_vec().into();
        }
    }
    resources
}
