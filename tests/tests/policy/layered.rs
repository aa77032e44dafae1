//! Policies with a selector, which an istiod with `ENABLE_LAYERED_WAYPOINT_AUTHORIZATION_POLICIES` puts before a waypoint's tunnels:
//! they decide about connections, by the tunnel's own identity, and what they deny is a CONNECT.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use http::StatusCode;
use prost::Message as _;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::ext_authz_resources::http_filter;
use waypoint_tests::{ControlPlane, Mesh};

const POLICY: &str = "ns[default]-policy[front]-rule[0]";

/// A DENY of this identity.
fn deny(identity: &str) -> Rbac {
    let name = StringMatcher {
        match_pattern: Some(MatchPattern::Exact(identity.into())),
        ..StringMatcher::default()
    };
    let policy = rbac::Policy {
        permissions: vec![rbac::Permission {
            rule: Some(rbac::permission::Rule::Any(true)),
        }],
        principals: vec![rbac::Principal {
            identifier: Some(rbac::principal::Identifier::Authenticated(
                rbac::principal::Authenticated {
                    principal_name: Some(name),
                },
            )),
        }],
        ..rbac::Policy::default()
    };
    Rbac {
        rules: Some(rbac::Rbac {
            action: rbac::rbac::Action::Deny.into(),
            policies: HashMap::from([(POLICY.to_owned(), policy)]),
            ..rbac::Rbac::default()
        }),
        ..Rbac::default()
    }
}

/// The mesh's resources, where tunnels are guarded.
fn guarded(mesh: &Mesh, rules: &Rbac) -> Vec<Resource> {
    let mut resources = mesh.resources();
    let tunnels = resources.iter_mut().find(|resource| {
        resource.kind == ResourceType::Listener && resource.name == "connect_terminate"
    });
    let resource = tunnels.unwrap();
    let mut listener = Listener::decode(resource.body.clone()).unwrap();
    let filters = listener
        .filter_chains
        .iter_mut()
        .flat_map(|chain| &mut chain.filters);
    for filter in filters {
        let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else {
            continue;
        };
        let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
        let rbac = http_filter("envoy.filters.http.rbac", rules);
        manager.http_filters.insert(0, rbac);
        any.value = manager.encode_to_vec();
    }
    resource.body = listener.encode_to_vec().into();
    resources
}

#[tokio::test]
async fn a_denied_identity_gets_no_tunnel_and_who_denied_it_is_told() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::start(&mesh).await;
    let rules = deny("spiffe://cluster.local/ns/other/sa/stranger");
    istiod.discovery.set(guarded(&mesh, &rules));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    assert_eq!(istiod.discovery.refusals(), Vec::<String>::new());
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    let stranger = mesh.client(&waypoint, "other", "stranger").await;
    let refused = stranger.connect_to(&to.to_string(), &[]).await;
    let status = refused.map(|(status, _)| status).ok();
    assert_eq!(status, Some(StatusCode::FORBIDDEN));
    assert_eq!(app.seen().len(), 1);
    let labels = [("action", "DENY"), ("policy", "front"), ("rule", "0")];
    waypoint
        .until_metric("waypoint_policy_denials_total", &labels, 1.0)
        .await;
}
