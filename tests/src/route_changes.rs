//! The resources of a mesh with something changed in their routes: what no manifest of the standalone mode says.

use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteMatch, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use waypoint_config::resource::{Resource, ResourceType};

/// Changes the virtual hosts of all services.
#[must_use]
pub fn changed(
    mut resources: Vec<Resource>,
    mut change: impl FnMut(&mut VirtualHost),
) -> Vec<Resource> {
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
                if let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier {
                    routes.virtual_hosts.iter_mut().for_each(&mut change);
                }
                any.value = manager.encode_to_vec();
            }
        }
        resource.body = listener.encode_to_vec().into();
    }
    resources
}

/// As `route`, for `prefix`, and with what a filter of this name is told there.
#[must_use]
pub fn told<M: Message + Name>(route: &Route, prefix: &str, filter: &str, config: &M) -> Route {
    let mut route = route.clone();
    route.r#match = Some(RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix(prefix.to_owned())),
        ..RouteMatch::default()
    });
    let told = [(filter.to_owned(), packed(config))];
    route.typed_per_filter_config.extend(told);
    route
}

/// A message as an `Any`.
#[must_use]
pub fn packed<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}
