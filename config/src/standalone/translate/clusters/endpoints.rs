//! ClusterLoadAssignments. An endpoint behind a ztunnel is the internal listener `connect_originate` with
//! the pod's address in its metadata; every other endpoint is its socket address, in plain text.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;

use crate::standalone::kinds::istio::workload_address::WorkloadAddress;
use crate::standalone::state::mesh_endpoint::MeshEndpoint;
use crate::standalone::translate::clusters::locality::Group;
use crate::standalone::translate::proto::packed::fields;
use crate::standalone::translate::proto::packed::metadata;
use crate::standalone::translate::proto::packed::text;
use crate::standalone::translate::proto::packed::uint32;

/// Whose metadata says where a tunnel leads.
pub(crate) const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";

/// The endpoints of one cluster.
pub(super) fn load_assignment(
    cluster: &str,
    groups: &[Group<'_>],
) -> endpoint::ClusterLoadAssignment {
    let found = groups.iter().map(|group| {
        let endpoints = group.endpoints.iter();
        group.found(endpoints.map(|endpoint| lb_endpoint(endpoint)).collect())
    });
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: found.collect(),
        ..endpoint::ClusterLoadAssignment::default()
    }
}

fn lb_endpoint(found: &MeshEndpoint) -> endpoint::LbEndpoint {
    let address = match &found.address {
        WorkloadAddress::Ip(address) => SocketAddr::new(*address, found.port).to_string(),
        WorkloadAddress::Name(name) => format!("{name}:{}", found.port),
    };
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
    if let Some(mode) = &found.tls_mode {
        known.filter_metadata.insert(
            "envoy.transport_socket_match".to_owned(),
            fields([("tlsMode", text(mode))]),
        );
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

pub(crate) fn socket_address(address: &str, port: u16) -> core::Address {
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
