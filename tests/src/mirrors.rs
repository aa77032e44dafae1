//! Routes with mirrors: as manifests say them, and as an istiod may write them that marks the host of copies.

use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};

use crate::mesh::Mesh;

/// Requests to `web` go to `shadow` as well, as many as `share` says.
pub fn mirrored(mesh: &Mesh, share: &str) {
    mesh.manifest(
        "route.yaml",
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: web, namespace: default}}\n\
             spec:\n  parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]\n  rules:\n  \
             - filters:\n    \
             - {{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-route, value: changed}}]}}}}\n    \
             - {{type: RequestMirror, requestMirror: {{backendRef: {{name: shadow, port: 80}}{share}}}}}\n    \
             backendRefs: [{{name: web, port: 80}}]\n"
        ),
    );
}

/// The mesh's resources, with its one mirror marking the host; and one more to the cluster `beside`.
///
/// # Panics
/// There isn't one mirror.
#[must_use]
pub fn marking_hosts(mesh: &Mesh, beside: Option<&str>) -> Vec<Resource> {
    let mut resources = mesh.resources();
    let mut changed = 0;
    for resource in &mut resources {
        if resource.kind != ResourceType::Listener || resource.name != "main_internal" {
            continue;
        }
        let mut listener = Listener::decode(resource.body.clone()).unwrap();
        let chains = listener.filter_chains.iter_mut();
        for filter in chains.flat_map(|chain| &mut chain.filters) {
            if let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type
                && any.type_url.ends_with(".HttpConnectionManager")
            {
                let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
                changed += mark_hosts(&mut manager, beside);
                any.value = manager.encode_to_vec();
            }
        }
        resource.body = listener.encode_to_vec().into();
    }
    assert_eq!(changed, 1);
    resources
}

fn mark_hosts(manager: &mut HttpConnectionManager, beside: Option<&str>) -> usize {
    let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
        return 0;
    };
    let hosts = routes.virtual_hosts.iter_mut();
    let mut changed = 0;
    for route in hosts.flat_map(|host| &mut host.routes) {
        if let Some(Action::Route(action)) = &mut route.action
            && let Some(policy) = action.request_mirror_policies.first_mut()
        {
            policy.disable_shadow_host_suffix_append = false;
            let beside = beside.map(|cluster| RequestMirrorPolicy {
                cluster: cluster.into(),
                ..RequestMirrorPolicy::default()
            });
            action.request_mirror_policies.extend(beside);
            changed += 1;
        }
    }
    changed
}
