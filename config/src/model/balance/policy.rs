//! Which policy a cluster balances by, and what beside it says how load is shared.

use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster as ClusterProto, cluster};
use waypoint_filters::xds::coverage::well_known::{PERCENT, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, harmless, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::balance::maglev;
use crate::model::balance::ring_hash::RingSettings;
use crate::model::balance::runtime_double::RUNTIME_DOUBLE;
use crate::model::balance::slow_start::{SLOW_START_CONFIG, SlowStart};

/// How one cluster balances.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Balancing {
    pub policy: LbPolicy,
    /// Percent of healthy endpoints below which all are used; istiod sends 0: never.
    pub panic_threshold: f64,
    /// Whether nobody is used then, rather than all (`fail_traffic_on_panic`).
    pub fails_in_panic: bool,
    /// Whether a locality is chosen by its weight first; otherwise those of a priority are one set.
    pub by_locality: bool,
    /// How new endpoints begin, where turns are taken or requests compared.
    pub slow_start: Option<SlowStart>,
}

impl Balancing {
    pub(crate) fn from_proto(proto: &ClusterProto) -> Result<Balancing, Refusal> {
        Ok(Balancing {
            policy: LbPolicy::from_proto(proto)?,
            panic_threshold: panic_threshold(proto),
            fails_in_panic: fails_in_panic(proto),
            by_locality: locality_weighted(proto),
            slow_start: slow_start(proto)?,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LbPolicy {
    RoundRobin,
    /// `choice_count` random endpoints are compared (Envoy: 2); with different weights, requests in flight count to the power of
    /// `bias` (Envoy: 1).
    LeastRequest {
        choice_count: u32,
        bias: f64,
    },
    Random,
    RingHash(RingSettings),
    Maglev {
        table_size: u64,
    },
    /// The discovery type decides.
    ClusterProvided,
}

/// The policies of `lb_policy`, as the API names them.
pub(crate) const HONOURED: &str =
    "ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV, CLUSTER_PROVIDED";

pub(crate) static COMMON_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.CommonLbConfig",
    fields: &[
        honoured(1, "healthy_panic_threshold").of(&PERCENT),
        honoured(2, "zone_aware_lb_config").of(&ZONE_AWARE_LB_CONFIG),
        honoured(3, "locality_weighted_lb_config").of(&LOCALITY_WEIGHTED_LB_CONFIG),
    ],
    refused: "4 update_merge_window, 5 ignore_new_hosts_until_first_hc, 6 close_connections_on_host_set_change, \
              7 consistent_hashing_lb_config, 8 override_host_status",
    required: &[],
};

/// What compares zones needs a cluster of the proxy's own peers, which a waypoint has none of; in Envoy, too, it says nothing then.
static ZONE_AWARE_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig",
    fields: &[
        harmless(1, "routing_enabled", NO_PEERS),
        harmless(2, "min_cluster_size", NO_PEERS),
        honoured(3, "fail_traffic_on_panic"),
    ],
    refused: "",
    required: &[],
};
const NO_PEERS: &str =
    "zones are compared with those of the proxy's own peers, whom a waypoint has no cluster of";

static LOCALITY_WEIGHTED_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig",
    fields: &[],
    refused: "",
    required: &[],
};

pub(crate) static LEAST_REQUEST_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig",
    fields: &[
        honoured(1, "choice_count").of(&UINT32_VALUE),
        honoured(2, "active_request_bias").of(&RUNTIME_DOUBLE),
        honoured(3, "slow_start_config").of(&SLOW_START_CONFIG),
    ],
    refused: "",
    required: &[],
};

pub(crate) static ROUND_ROBIN_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.RoundRobinLbConfig",
    fields: &[honoured(1, "slow_start_config").of(&SLOW_START_CONFIG)],
    refused: "",
    required: &[],
};

impl LbPolicy {
    /// Whether it leads by a hash of the request.
    pub fn hashes(self) -> bool {
        matches!(self, LbPolicy::RingHash(_) | LbPolicy::Maglev { .. })
    }

    fn from_proto(proto: &ClusterProto) -> Result<LbPolicy, Refusal> {
        let policy = cluster::LbPolicy::try_from(proto.lb_policy)
            .map_err(|_| Refusal::new("lb_policy", format!("unknown value {}", proto.lb_policy)))?;
        Ok(match policy {
            cluster::LbPolicy::RoundRobin => LbPolicy::RoundRobin,
            cluster::LbPolicy::Random => LbPolicy::Random,
            cluster::LbPolicy::ClusterProvided => LbPolicy::ClusterProvided,
            cluster::LbPolicy::LeastRequest => {
                let config = match &proto.lb_config {
                    Some(cluster::LbConfig::LeastRequestLbConfig(config)) => Some(config),
                    _ => None,
                };
                let count = config.and_then(|c| c.choice_count);
                let bias = config.and_then(|c| c.active_request_bias.as_ref());
                let bias = bias.map_or(1.0, |b| b.default_value);
                if !bias.is_finite() || bias < 0.0 {
                    let field = "least_request_lb_config.active_request_bias";
                    return Err(Refusal::new(field, "is below 0"));
                }
                LbPolicy::LeastRequest {
                    choice_count: count.map_or(2, |c| c.value),
                    bias,
                }
            }
            cluster::LbPolicy::RingHash => {
                LbPolicy::RingHash(RingSettings::from_proto(match &proto.lb_config {
                    Some(cluster::LbConfig::RingHashLbConfig(config)) => Some(config),
                    _ => None,
                })?)
            }
            cluster::LbPolicy::Maglev => LbPolicy::Maglev {
                table_size: maglev::table_size(match &proto.lb_config {
                    Some(cluster::LbConfig::MaglevLbConfig(config)) => Some(config),
                    _ => None,
                })?,
            },
            other => {
                return Err(Refusal::unsupported(format!(
                    "lb_policy {}",
                    other.as_str_name()
                )));
            }
        })
    }
}

fn slow_start(proto: &ClusterProto) -> Result<Option<SlowStart>, Refusal> {
    use cluster::{LbConfig, LbPolicy};
    let (config, field) = match (proto.lb_policy(), &proto.lb_config) {
        (LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => {
            (config.slow_start_config.as_ref(), "round_robin_lb_config")
        }
        (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            (config.slow_start_config.as_ref(), "least_request_lb_config")
        }
        // As in Envoy, what is said for another policy counts for nothing.
        _ => return Ok(None),
    };
    let slow_start = config.map(SlowStart::from_proto).transpose();
    let slow_start = slow_start.map_err(|e| e.within("slow_start_config").within(field))?;
    Ok(slow_start.flatten())
}

/// Percent of healthy endpoints below which all are used; Envoy's default where nothing is said.
fn panic_threshold(proto: &ClusterProto) -> f64 {
    let config = proto.common_lb_config.as_ref();
    config
        .and_then(|config| config.healthy_panic_threshold.as_ref())
        .map_or(50.0, |percent| percent.value)
}

/// As in Envoy, whoever hashes has all endpoints in a panic whatever this says.
fn fails_in_panic(proto: &ClusterProto) -> bool {
    let config = proto.common_lb_config.as_ref();
    let specifier = config.and_then(|config| config.locality_config_specifier.as_ref());
    matches!(
        specifier,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(zones)) if zones.fail_traffic_on_panic
    )
}

/// Whether a locality is chosen by its weight before an endpoint in it.
fn locality_weighted(proto: &ClusterProto) -> bool {
    let config = proto.common_lb_config.as_ref();
    config.is_some_and(|config| {
        matches!(
            config.locality_config_specifier,
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_that_are_taken_are_those_that_are_said_to_be() {
        let taken = |number: &i32| {
            let proto = ClusterProto {
                lb_policy: *number,
                ..ClusterProto::default()
            };
            LbPolicy::from_proto(&proto).is_ok()
        };
        let names = (0..100).filter(taken);
        let names = names.filter_map(|number| cluster::LbPolicy::try_from(number).ok());
        let names: Vec<_> = names.map(|policy| policy.as_str_name()).collect();
        let mut said: Vec<_> = HONOURED.split(", ").collect();
        said.sort_by_key(|name| names.iter().position(|n| n == name));
        assert_eq!(said, names);
    }
}
