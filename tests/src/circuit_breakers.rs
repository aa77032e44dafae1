//! A DestinationRule's limits as istiod sends them.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::google::protobuf::UInt32Value;
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};

use crate::mesh::Mesh;

/// No limit.
pub const NONE: u32 = u32::MAX;

/// `max_connections`, `max_pending_requests`, `max_requests`, `max_retries`.
pub type Limits = [u32; 4];

/// The mesh's resources, where the services' clusters have these limits.
#[must_use]
pub fn limited(mesh: &Mesh, limits: Limits) -> Vec<Resource> {
    let mut resources = mesh.resources();
    let mut changed = 0;
    for resource in &mut resources {
        if resource.kind == ResourceType::Cluster && resource.name.starts_with("inbound-vip|") {
            let mut cluster = Cluster::decode(resource.body.clone()).unwrap();
            let breakers = cluster.circuit_breakers.as_mut().unwrap();
            let [connections, pending, requests, retries] =
                limits.map(|value| Some(UInt32Value { value }));
            let thresholds = &mut breakers.thresholds[0];
            thresholds.max_connections = connections;
            thresholds.max_pending_requests = pending;
            thresholds.max_requests = requests;
            thresholds.max_retries = retries;
            resource.body = cluster.encode_to_vec().into();
            changed += 1;
        }
    }
    assert!(changed > 0, "no cluster of a service");
    resources
}
