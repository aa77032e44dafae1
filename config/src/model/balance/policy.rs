//! Which policy a cluster balances by, and what beside it says how load is shared.

use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster as ClusterProto, cluster};
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

/// How one cluster balances.
#[derive(Clone, Copy, Debug)]
pub struct Balancing {
    pub policy: LbPolicy,
    /// Percent of healthy endpoints below which all are used; istiod sends 0: never.
    pub panic_threshold: f64,
    /// Whether a locality is chosen by its weight first; otherwise those of a priority are one set.
    pub by_locality: bool,
}

impl Balancing {
    pub(crate) fn from_proto(proto: &ClusterProto) -> Result<Balancing, Refusal> {
        Ok(Balancing {
            policy: LbPolicy::from_proto(proto)?,
            panic_threshold: panic_threshold(proto),
            by_locality: locality_weighted(proto),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LbPolicy {
    RoundRobin,
    /// `choice_count` random endpoints are compared (Envoy: 2).
    LeastRequest {
        choice_count: u32,
    },
    Random,
    /// The discovery type decides.
    ClusterProvided,
}

/// The policies of `lb_policy`, as the API names them.
pub(crate) const HONOURED: &str = "ROUND_ROBIN, LEAST_REQUEST, RANDOM, CLUSTER_PROVIDED";

pub(crate) static COMMON_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.CommonLbConfig",
    fields: &[
        honoured(1, "healthy_panic_threshold").of(&PERCENT),
        honoured(3, "locality_weighted_lb_config").of(&LOCALITY_WEIGHTED_LB_CONFIG),
    ],
    refused: "2 zone_aware_lb_config, 4 update_merge_window, 5 ignore_new_hosts_until_first_hc, 6 close_connections_on_host_set_change, \
              7 consistent_hashing_lb_config, 8 override_host_status",
    required: &[],
};

static LOCALITY_WEIGHTED_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig",
    fields: &[],
    refused: "",
    required: &[],
};

static PERCENT: Table = Table {
    name: "envoy.type.v3.Percent",
    fields: &[honoured(1, "value")],
    refused: "",
    required: &[],
};

pub(crate) static LEAST_REQUEST_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.LeastRequestLbConfig",
    fields: &[honoured(1, "choice_count").of(&UINT32_VALUE)],
    refused: "2 active_request_bias, 3 slow_start_config",
    required: &[],
};

pub(crate) static ROUND_ROBIN_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.RoundRobinLbConfig",
    fields: &[],
    refused: "1 slow_start_config",
    required: &[],
};

impl LbPolicy {
    fn from_proto(proto: &ClusterProto) -> Result<LbPolicy, Refusal> {
        let policy = cluster::LbPolicy::try_from(proto.lb_policy)
            .map_err(|_| Refusal::new("lb_policy", format!("unknown value {}", proto.lb_policy)))?;
        match &proto.lb_config {
            None | Some(cluster::LbConfig::OriginalDstLbConfig(_)) => {}
            Some(
                cluster::LbConfig::LeastRequestLbConfig(_)
                | cluster::LbConfig::RoundRobinLbConfig(_),
            ) => {}
            Some(_) => return Err(Refusal::unsupported("lb_config")),
        }
        Ok(match policy {
            cluster::LbPolicy::RoundRobin => LbPolicy::RoundRobin,
            cluster::LbPolicy::Random => LbPolicy::Random,
            cluster::LbPolicy::ClusterProvided => LbPolicy::ClusterProvided,
            cluster::LbPolicy::LeastRequest => {
                let count = match &proto.lb_config {
                    Some(cluster::LbConfig::LeastRequestLbConfig(config)) => {
                        config.choice_count.as_ref()
                    }
                    _ => None,
                };
                LbPolicy::LeastRequest {
                    choice_count: count.map_or(2, |c| c.value),
                }
            }
            other => {
                return Err(Refusal::unsupported(format!(
                    "lb_policy {}",
                    other.as_str_name()
                )));
            }
        })
    }
}

/// Percent of healthy endpoints below which all are used; Envoy's default where nothing is said.
fn panic_threshold(proto: &ClusterProto) -> f64 {
    let config = proto.common_lb_config.as_ref();
    config
        .and_then(|config| config.healthy_panic_threshold.as_ref())
        .map_or(50.0, |percent| percent.value)
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
