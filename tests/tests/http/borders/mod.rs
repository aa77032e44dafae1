//! A proxy's duties at the borders between the versions of HTTP: bodies in any framing, expectations, heads.
//!
//! Each story has a second telling beside real Envoy, which `make test-envoy` runs.

mod allowed_streams;
mod expectations;
mod goaway;
mod heads;
mod informational;
mod versions;

pub(crate) use versions::passing_trailers;

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::backend::{Backend, Speaks};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::{Mesh, Waypoint, Ztunnel};

pub(crate) const UPSTREAMS: [Speaks; 3] = [Speaks::Http10, Speaks::Http11, Speaks::Http2];

pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    pub(crate) waypoint: Waypoint,
    pub(crate) client: Ztunnel,
    pub(crate) to: Vec<(Speaks, SocketAddr, Backend)>,
}

pub(crate) async fn scene() -> Scene {
    let mesh = Mesh::new();
    let mut to = Vec::new();
    for (n, speaks) in (1..).zip(UPSTREAMS) {
        let name = format!("web-{n}");
        let port = match speaks {
            Speaks::Http2 => "http2",
            _ => "http",
        };
        mesh.describe_pod(n, &format!("{name}-1"), &name, false);
        let backend = Backend::start(mesh.backend(n), speaks).await;
        let port = format!("{{name: {port}, port: 80, targetPort: 8080}}");
        to.push((speaks, mesh.service_with_port(n, &name, &port), backend));
    }
    let (waypoint, client) = mesh.started().await;
    Scene {
        mesh,
        waypoint,
        client,
        to,
    }
}

/// Envoy as the waypoint of this mesh, and a client of it.
pub(crate) async fn envoy_beside(mesh: &Mesh, resources: &[Resource]) -> (Envoy, Ztunnel) {
    let (envoy, address) = Envoy::beside(mesh, resources).await;
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect(address, &certificate).await.unwrap();
    (envoy, client)
}

/// The mesh's resources with other connection managers.
pub(crate) fn changed(mesh: &Mesh, change: impl Fn(&mut HttpConnectionManager)) -> Vec<Resource> {
    let mut resources = mesh.resources();
    let listeners = resources
        .iter_mut()
        .filter(|resource| resource.kind == ResourceType::Listener);
    for resource in listeners {
        let mut listener = Listener::decode(resource.body.clone()).unwrap();
        let chains = listener.filter_chains.iter_mut();
        for filter in chains.flat_map(|chain| &mut chain.filters) {
            if let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type
                && any.type_url.ends_with(".HttpConnectionManager")
            {
                let mut manager = HttpConnectionManager::decode(&any.value[..]).unwrap();
                change(&mut manager);
                any.value = manager.encode_to_vec();
            }
        }
        resource.body = listener.encode_to_vec().into();
    }
    resources
}
