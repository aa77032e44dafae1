//! ClusterLoadAssignments. An endpoint behind a ztunnel is the internal listener `connect_originate` with
//! the pod's address in its metadata; every other endpoint is its socket address, in plain text.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;

use crate::standalone::state::mesh_service::{Locality, MeshEndpoint};
use crate::standalone::translate::proto::packed::fields;
use crate::standalone::translate::proto::packed::metadata;
use crate::standalone::translate::proto::packed::text;
use crate::standalone::translate::proto::packed::uint32;

/// Whose metadata says where a tunnel leads.
pub(super) const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";

/// The endpoints of one cluster, by locality.
pub(super) fn load_assignment(
    cluster: &str,
    endpoints: &[MeshEndpoint],
) -> endpoint::ClusterLoadAssignment {
    let mut localities: BTreeMap<&Locality, Vec<&MeshEndpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        localities
            .entry(&endpoint.locality)
            .or_default()
            .push(endpoint);
    }
    let endpoints = localities.into_iter().map(|(locality, endpoints)| {
        let weight = endpoints
            .iter()
            .fold(0, |sum: u32, endpoint| sum.saturating_add(endpoint.weight));
        endpoint::LocalityLbEndpoints {
            locality: Some(core::Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                sub_zone: locality.sub_zone.clone(),
            }),
            lb_endpoints: endpoints.into_iter().map(lb_endpoint).collect(),
            load_balancing_weight: uint32(weight),
            ..endpoint::LocalityLbEndpoints::default()
        }
    });
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: endpoints.collect(),
        ..endpoint::ClusterLoadAssignment::default()
    }
}

fn lb_endpoint(found: &MeshEndpoint) -> endpoint::LbEndpoint {
    let address = SocketAddr::new(found.address, found.port).to_string();
    let mut known = metadata([]);
    if let Some(workload) = &found.workload {
        known
            .filter_metadata
            .insert("istio".to_owned(), fields([("workload", text(workload))]));
    }
    if found.hbone {
        known
            .filter_metadata
            .insert(ORIGINAL_DST.to_owned(), fields([("local", text(&address))]));
    }
    let address = if found.hbone {
        internal_address("connect_originate", &address)
    } else {
        socket_address(&found.address.to_string(), found.port)
    };
    let health = match found.healthy {
        Some(true) => core::HealthStatus::Healthy,
        Some(false) => core::HealthStatus::Unhealthy,
        None => core::HealthStatus::Unknown,
    };
    endpoint::LbEndpoint {
        health_status: health.into(),
        metadata: (!known.filter_metadata.is_empty()).then_some(known),
        load_balancing_weight: uint32(found.weight),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: Some(address),
                ..endpoint::Endpoint::default()
            },
        )),
    }
}

pub(super) fn socket_address(address: &str, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..core::SocketAddress::default()
        })),
    }
}

/// The address of an internal listener.
pub(super) fn internal_address(listener: &str, endpoint_id: &str) -> core::Address {
    core::Address {
        address: Some(core::address::Address::EnvoyInternalAddress(
            core::EnvoyInternalAddress {
                endpoint_id: endpoint_id.to_owned(),
                address_name_specifier: Some(
                    core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(
                        listener.to_owned(),
                    ),
                ),
            },
        )),
    }
}
