//! What a request is hashed by, where a DestinationRule has endpoints chosen by hash.
//!
//! As with istiod the default route of a service looks at the rule's own policy only, not at settings of its port, and
//! TCP streams look at nothing but the client's address.

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::r#type::v3 as stream_hash;

use route::route_action::HashPolicy;
use route::route_action::hash_policy::{
    ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
};

use crate::standalone::kinds::traffic_policy::TrafficPolicy;
use crate::standalone::kinds::traffic_policy::load_balancer::{ConsistentHash, LoadBalancer};
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::duration;

impl Mesh<'_> {
    /// For the default route of a service.
    pub(super) fn service_hash(&self, service: &MeshService<'_>) -> Option<&ConsistentHash> {
        let rule = self.rule_for(service)?;
        of_balancer(rule.of_policies(|policy| policy.load_balancer.as_ref()))
    }

    /// For a route's destination: what its subset's port says, its subset, its port, the rule.
    pub(super) fn destination_hash(
        &self,
        host: &str,
        namespace: &str,
        port: Option<u16>,
        subset: Option<&str>,
    ) -> Option<&ConsistentHash> {
        let rule = self.rules.for_host(host, namespace)?;
        let subset = subset.and_then(|name| rule.subset(name)?.traffic_policy.as_ref());
        of_port(subset, port)
            .or_else(|| of_balancer(subset?.load_balancer.as_ref()))
            .or_else(|| rule.of_policies(|policy| of_port(Some(policy), port)))
            .or_else(|| of_balancer(rule.of_policies(|policy| policy.load_balancer.as_ref())))
    }

    /// What a rule says of the TCP streams of a service.
    pub(crate) fn stream_settings(&self, service: &MeshService<'_>) -> TcpProxy {
        let Some(rule) = self.rule_for(service) else {
            return TcpProxy::default();
        };
        let pool = rule.of_policies(|policy| policy.connection_pool.as_ref());
        let pool = pool.and_then(|pool| pool.tcp.as_ref());
        let balancer = rule.of_policies(|policy| policy.load_balancer.as_ref());
        let by_source = of_balancer(balancer).is_some_and(|hash| hash.use_source_ip == Some(true));
        let source = || stream_hash::HashPolicy {
            policy_specifier: Some(stream_hash::hash_policy::PolicySpecifier::SourceIp(
                stream_hash::hash_policy::SourceIp {},
            )),
        };
        TcpProxy {
            idle_timeout: pool.and_then(|pool| pool.idle_timeout).map(duration),
            max_downstream_connection_duration: pool
                .and_then(|pool| pool.max_connection_duration)
                .map(duration),
            hash_policy: by_source.then(source).into_iter().collect(),
            ..TcpProxy::default()
        }
    }
}

fn of_balancer(balancer: Option<&LoadBalancer>) -> Option<&ConsistentHash> {
    balancer?.consistent_hash.as_ref()
}

fn of_port(policy: Option<&TrafficPolicy>, port: Option<u16>) -> Option<&ConsistentHash> {
    of_balancer(policy?.of_port(port?)?.load_balancer.as_ref())
}

/// `None`: nothing of the request is looked at.
pub(super) fn of_requests(hash: &ConsistentHash) -> Option<HashPolicy> {
    let specifier = if let Some(name) = &hash.http_header_name {
        PolicySpecifier::Header(Header {
            header_name: name.clone(),
            ..Header::default()
        })
    } else if let Some(cookie) = &hash.http_cookie {
        let attributes = cookie.attributes.iter().map(|attribute| CookieAttribute {
            name: attribute.name.clone(),
            value: attribute.value.clone(),
        });
        PolicySpecifier::Cookie(Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.map(duration),
            path: cookie.path.clone(),
            attributes: attributes.collect(),
        })
    } else if let Some(source_ip) = hash.use_source_ip {
        PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip })
    } else {
        PolicySpecifier::QueryParameter(QueryParameter {
            name: hash.http_query_parameter_name.clone()?,
        })
    };
    Some(HashPolicy {
        policy_specifier: Some(specifier),
        ..HashPolicy::default()
    })
}
