//! What an istiod says of how a service's traffic is shared out, changed in the mesh's own resources; and pods to share it.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::RouteAction;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};

use crate::{App, Mesh};

/// Plain pods `web-1` … with the addresses 1 … of the mesh, which answer with their name.
pub async fn pods(mesh: &Mesh, count: u8) -> Vec<App> {
    let mut apps = Vec::new();
    for n in 1..=count {
        let name = format!("web-{n}");
        mesh.describe_pod(n, &name, "web", false);
        apps.push(App::http(mesh.backend(n), &name).await);
    }
    apps
}

/// One more service of the pods of `web`.
pub fn service_of_web(mesh: &Mesh, n: u8, name: &str, port: &str) -> SocketAddr {
    let vip = mesh.vip(n);
    mesh.manifest(
        &format!("service-{name}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{clusterIP: {}, selector: {{app: web}}, ports: [{port}]}}\n",
            vip.ip()
        ),
    );
    vip
}

/// Changes the clusters of this service.
pub fn clusters(resources: &mut [Resource], service: &str, change: impl Fn(&mut Cluster)) {
    of_service(resources, ResourceType::Cluster, service, change);
}

/// Changes the endpoints of this service.
pub fn endpoints(
    resources: &mut [Resource],
    service: &str,
    change: impl Fn(&mut ClusterLoadAssignment),
) {
    of_service(resources, ResourceType::Endpoints, service, change);
}

fn of_service<T: Message + Default>(
    resources: &mut [Resource],
    kind: ResourceType,
    service: &str,
    change: impl Fn(&mut T),
) {
    let host = format!("|{service}.default.svc.cluster.local");
    let found = resources.iter_mut().filter(|r| r.kind == kind);
    let mut changed = 0;
    for resource in found.filter(|r| r.name.ends_with(&host)) {
        let mut message = T::decode(resource.body.clone()).unwrap();
        change(&mut message);
        resource.body = message.encode_to_vec().into();
        changed += 1;
    }
    assert!(changed > 0, "nothing of {service}");
}

/// Changes what routes to this service's cluster do.
pub fn routes(resources: &mut [Resource], service: &str, change: impl Fn(&mut RouteAction)) {
    let host = format!("|{service}.default.svc.cluster.local");
    let mut changed = 0;
    filters(resources, |manager: &mut HttpConnectionManager| {
        let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
            return;
        };
        let routes = routes.virtual_hosts.iter_mut().flat_map(|h| &mut h.routes);
        for route in routes {
            if let Some(Action::Route(action)) = &mut route.action
                && format!("{:?}", action.cluster_specifier).contains(&host)
            {
                change(action);
                changed += 1;
            }
        }
    });
    assert!(changed > 0, "no route to {service}");
}

/// Changes the connection managers whose routes lead to this service's cluster.
pub fn managers(
    resources: &mut [Resource],
    service: &str,
    change: impl Fn(&mut HttpConnectionManager),
) {
    let host = format!("|{service}.default.svc.cluster.local");
    let mut changed = 0;
    filters(resources, |manager: &mut HttpConnectionManager| {
        if format!("{:?}", manager.route_specifier).contains(&host) {
            change(manager);
            changed += 1;
        }
    });
    assert!(changed > 0, "no route to {service}");
}

/// Changes how TCP streams go to this service's cluster.
pub fn tcp_proxies(resources: &mut [Resource], service: &str, change: impl Fn(&mut TcpProxy)) {
    let host = format!("|{service}.default.svc.cluster.local");
    let mut changed = 0;
    filters(resources, |proxy: &mut TcpProxy| {
        if format!("{:?}", proxy.cluster_specifier).contains(&host) {
            change(proxy);
            changed += 1;
        }
    });
    assert!(changed > 0, "no stream to {service}");
}

/// Goes through the filters of one type in `main_internal`.
fn filters<T: Message + Default + prost::Name>(
    resources: &mut [Resource],
    mut change: impl FnMut(&mut T),
) {
    let listeners = resources.iter_mut();
    let main = listeners.filter(|r| r.kind == ResourceType::Listener && r.name == "main_internal");
    for resource in main {
        let mut listener = Listener::decode(resource.body.clone()).unwrap();
        for chain in &mut listener.filter_chains {
            for filter in &mut chain.filters {
                if let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type
                    && any.type_url == T::type_url()
                {
                    let mut message = T::decode(&*any.value).unwrap();
                    change(&mut message);
                    any.value = message.encode_to_vec();
                }
            }
        }
        resource.body = listener.encode_to_vec().into();
    }
}
