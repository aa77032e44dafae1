//! Connection managers that say more than istiod's.

use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{RouteAction, route};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::google::protobuf::Duration as DurationProto;
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};

/// Inside tunnels.
pub const INNER: &str = "main_internal";
/// Of tunnels.
pub const HBONE: &str = "connect_terminate";

/// The resources, with every connection manager of that listener changed.
pub fn change(
    resources: &mut [Resource],
    name: &str,
    mut change: impl FnMut(&mut HttpConnectionManager),
) {
    for resource in resources {
        if resource.kind != ResourceType::Listener || resource.name != name {
            continue;
        }
        let mut listener = Listener::decode(resource.body.clone()).unwrap();
        let chains = listener.filter_chains.iter_mut();
        for filter in chains.flat_map(|chain| &mut chain.filters) {
            if let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type
                && any.type_url.ends_with(".HttpConnectionManager")
            {
                let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
                change(&mut manager);
                any.value = manager.encode_to_vec();
            }
        }
        resource.body = listener.encode_to_vec().into();
    }
}

/// Changes every route of a manager that leads to a cluster.
pub fn change_routes(
    manager: &mut HttpConnectionManager,
    mut change: impl FnMut(&mut RouteAction),
) {
    let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
        return;
    };
    let hosts = routes.virtual_hosts.iter_mut();
    for found in hosts.flat_map(|host| &mut host.routes) {
        if let Some(route::Action::Route(action)) = &mut found.action {
            change(action);
        }
    }
}

#[must_use]
pub fn millis(millis: u64) -> Option<DurationProto> {
    Some(DurationProto {
        seconds: (millis / 1000) as i64,
        nanos: (millis % 1000 * 1_000_000) as i32,
    })
}
