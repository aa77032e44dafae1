//! The endpoints of a cluster, by priority and locality: a `ClusterLoadAssignment`.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypoint_filters::stream::session::SessionHost;
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::balance::hosts::{Hosts, Overprovisioning};
use crate::model::balance::policy::Balancing;
use crate::model::endpoint::{Endpoint, EndpointState, LB_ENDPOINT, Locality, PeerAt, Transport};

/// More endpoints than this in one assignment are refused.
const MAX_ENDPOINTS: usize = 100_000;

/// The endpoints of a cluster, by priority.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Priority 0 first. Within one, localities in the order given.
    pub priorities: Vec<Vec<Locality>>,
    overprovisioning: Overprovisioning,
    hosts: OnceLock<Hosts>,
    /// For sessions; made on first use.
    by_name: OnceLock<HashMap<SessionHost, Arc<Endpoint>>>,
}

impl EndpointSet {
    pub fn new(priorities: Vec<Vec<Locality>>) -> EndpointSet {
        EndpointSet {
            priorities,
            overprovisioning: Overprovisioning::default(),
            hosts: OnceLock::new(),
            by_name: OnceLock::new(),
        }
    }

    /// The endpoint that a session names.
    pub fn at(&self, host: SessionHost) -> Option<&Arc<Endpoint>> {
        let by_name = self.by_name.get_or_init(|| {
            let named = self.iter().map(|e| (e.session_host(), e.clone()));
            named.collect()
        });
        by_name.get(&host)
    }

    /// As a balancer looks at them; made on first use.
    pub fn hosts(&self) -> &Hosts {
        let new = || Hosts::new(&self.priorities, self.overprovisioning);
        self.hosts.get_or_init(new)
    }

    /// With what the policy looks up; only where it hashes is that made ahead of the first request.
    pub(crate) fn prepared(self, balancing: &Balancing) -> EndpointSet {
        if !balancing.policy.hashes() {
            return self;
        }
        EndpointSet {
            hosts: Hosts::with_tables(&self.priorities, self.overprovisioning, balancing).into(),
            ..self
        }
    }

    /// The same endpoints, looked at anew.
    pub(crate) fn again(&self) -> EndpointSet {
        EndpointSet {
            overprovisioning: self.overprovisioning,
            ..EndpointSet::new(self.priorities.clone())
        }
    }

    /// With those of `previous` that aren't listed any more, and pass their checks.
    pub(crate) fn keeping_those_that_pass(mut self, previous: &EndpointSet) -> EndpointSet {
        let key = |e: &Arc<Endpoint>| (e.address, e.transport);
        let listed: HashSet<_> = self.iter().map(key).collect();
        for (priority, localities) in previous.priorities.iter().enumerate() {
            for locality in localities {
                let left = locality.endpoints.iter();
                let left = left.filter(|e| !listed.contains(&key(e)));
                for endpoint in left.filter(|e| e.healthy && e.state.health.is_passing()) {
                    endpoint.state.health.set_leaving(true);
                    let place = place_like(&mut self.priorities, priority, locality);
                    place.endpoints.push(endpoint.clone());
                }
            }
        }
        self
    }

    /// The same endpoints, looked at anew, without those that aren't listed and failed.
    pub(crate) fn without_those_that_left(&self) -> EndpointSet {
        let mut again = self.again();
        let stays = |e: &Arc<Endpoint>| !e.state.health.is_leaving() || e.state.health.is_passing();
        for locality in again.priorities.iter_mut().flatten() {
            locality.endpoints.retain(stays);
        }
        again
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.priorities.iter().flatten().flat_map(|l| &l.endpoints)
    }
}

/// The locality of that priority which is where `like` is.
fn place_like<'a>(
    priorities: &'a mut Vec<Vec<Locality>>,
    priority: usize,
    like: &Locality,
) -> &'a mut Locality {
    if priorities.len() <= priority {
        priorities.resize_with(priority + 1, Vec::new);
    }
    let localities = &mut priorities[priority];
    let is_there = |l: &Locality| {
        (&l.region, &l.zone, &l.sub_zone) == (&like.region, &like.zone, &like.sub_zone)
    };
    let found = localities.iter().position(is_there);
    let index = found.unwrap_or_else(|| {
        localities.push(Locality {
            endpoints: Vec::new(),
            ..like.clone()
        });
        localities.len() - 1
    });
    &mut localities[index]
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
    fields: &[honoured(3, "overprovisioning_factor").of(&UINT32_VALUE)],
    refused: "2 drop_overloads, 4 endpoint_stale_after, \
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
        Ok(EndpointSet {
            overprovisioning: overprovisioning(proto)?,
            ..EndpointSet::new(priorities)
        })
    }
}

fn overprovisioning(proto: &ClusterLoadAssignment) -> Result<Overprovisioning, Refusal> {
    let policy = proto.policy.as_ref();
    match policy.and_then(|policy| policy.overprovisioning_factor) {
        None => Ok(Overprovisioning::default()),
        Some(factor) if factor.value > 0 => Ok(Overprovisioning(factor.value)),
        Some(_) => Err(Refusal::new("policy.overprovisioning_factor", "is 0")),
    }
}
