//! The endpoints of a cluster, by priority and locality: a `ClusterLoadAssignment`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::balance::hosts::Hosts;
use crate::model::endpoint::{Endpoint, EndpointState, LB_ENDPOINT, Locality, PeerAt, Transport};

/// More endpoints than this in one assignment are refused.
const MAX_ENDPOINTS: usize = 100_000;

/// The endpoints of a cluster, by priority.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Priority 0 first. Within one, localities in the order given.
    pub priorities: Vec<Vec<Locality>>,
    hosts: OnceLock<Hosts>,
}

impl EndpointSet {
    pub fn new(priorities: Vec<Vec<Locality>>) -> EndpointSet {
        EndpointSet {
            priorities,
            hosts: OnceLock::new(),
        }
    }

    /// As a balancer looks at them; made on first use.
    pub fn hosts(&self) -> &Hosts {
        self.hosts.get_or_init(|| Hosts::new(&self.priorities))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.priorities.iter().flatten().flat_map(|l| &l.endpoints)
    }
}

pub static CLUSTER_LOAD_ASSIGNMENT: Table = Table {
    name: "envoy.config.endpoint.v3.ClusterLoadAssignment",
    fields: &[
        honoured(1, "cluster_name"),
        honoured(2, "endpoints").list().of(&LOCALITY_ENDPOINTS),
        honoured(4, "policy").of(&POLICY),
    ],
    refused: "5 named_endpoints",
    required: &[],
};

static POLICY: Table = Table {
    name: "envoy.config.endpoint.v3.ClusterLoadAssignment.Policy",
    fields: &[],
    refused: "2 drop_overloads, 3 overprovisioning_factor, 4 endpoint_stale_after, \
              6 weighted_priority_health",
    required: &[],
};

static LOCALITY_ENDPOINTS: Table = Table {
    name: "envoy.config.endpoint.v3.LocalityLbEndpoints",
    fields: &[
        honoured(1, "locality").of(&LOCALITY),
        honoured(2, "lb_endpoints").list().of(&LB_ENDPOINT),
        honoured(3, "load_balancing_weight").of(&UINT32_VALUE),
        honoured(5, "priority"),
    ],
    refused: "6 proximity, 7 load_balancer_endpoints, 8 leds_cluster_locality_config, 9 metadata",
    required: &[],
};

static LOCALITY: Table = Table {
    name: "envoy.config.core.v3.Locality",
    fields: &[
        honoured(1, "region"),
        honoured(2, "zone"),
        honoured(3, "sub_zone"),
    ],
    refused: "",
    required: &[],
};

impl EndpointSet {
    /// `previous` gives endpoints that stay what lives with them; `peer` finds the workload at an address.
    pub(crate) fn from_proto(
        proto: &ClusterLoadAssignment,
        previous: &EndpointSet,
        peer: PeerAt<'_>,
    ) -> Result<EndpointSet, Refusal> {
        let total: usize = proto.endpoints.iter().map(|l| l.lb_endpoints.len()).sum();
        if total > MAX_ENDPOINTS {
            return Err(Refusal::new(
                "endpoints",
                format!("{total} are more than {MAX_ENDPOINTS}"),
            ));
        }
        let kept: HashMap<(SocketAddr, Transport), &Arc<EndpointState>> = previous
            .iter()
            .map(|e| ((e.address, e.transport), &e.state))
            .collect();
        let mut priorities: Vec<Vec<Locality>> = Vec::new();
        for (i, locality) in proto.endpoints.iter().enumerate() {
            let priority = usize::try_from(locality.priority).unwrap_or(usize::MAX);
            if priority > 128 {
                return Err(Refusal::new(
                    format!("endpoints[{i}].priority"),
                    "is above 128",
                ));
            }
            if priorities.len() <= priority {
                priorities.resize_with(priority + 1, Vec::new);
            }
            // As in Envoy, a weight without a place counts for nothing.
            let weight = locality
                .locality
                .as_ref()
                .and(locality.load_balancing_weight.as_ref());
            let place = locality.locality.clone().unwrap_or_default();
            let endpoints = locality
                .lb_endpoints
                .iter()
                .enumerate()
                .map(|(j, endpoint)| {
                    let endpoint = Endpoint::from_proto(endpoint, &kept, peer);
                    endpoint.map_err(|e| e.within(format!("endpoints[{i}].lb_endpoints[{j}]")))
                })
                .collect::<Result<_, _>>()?;
            if let Some(localities) = priorities.get_mut(priority) {
                localities.push(Locality {
                    region: place.region.into(),
                    zone: place.zone.into(),
                    sub_zone: place.sub_zone.into(),
                    weight: weight.map_or(0, |weight| weight.value),
                    endpoints,
                });
            }
        }
        Ok(EndpointSet::new(priorities))
    }
}
