//! How a cluster shares requests out: `loadBalancer` of a traffic policy.

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::v3 as percent;
use envoy_types::pb::google::protobuf::UInt64Value;

use cluster::cluster::common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig};
use cluster::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig,
    RingHashLbConfig, RoundRobinLbConfig, SlowStartConfig,
};

use crate::standalone::kinds::traffic_policy::load_balancer::{
    ConsistentHash, LoadBalancer, Simple,
};
use crate::standalone::kinds::traffic_policy::{Effective, Nearness};
use crate::standalone::translate::proto::packed::duration;

/// Of a ring where the rule gives none.
const RING_SIZE: u64 = 1024;
/// Key of the runtime under which istiod says that the aggression could be changed. Really.
const AGGRESSION_KEY: &str = "(";
const MINIMUM_PERCENT: f64 = 10.0;

pub(super) fn apply(found: &mut cluster::Cluster, policy: &Effective<'_>) {
    let none = LoadBalancer::default();
    let balancer = policy.load_balancer.unwrap_or(&none);
    if weighs_localities(policy) {
        let common = found.common_lb_config.get_or_insert_default();
        common.locality_config_specifier = Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
            LocalityWeightedLbConfig {},
        ));
    }
    let original = |found: &cluster::Cluster| {
        found.cluster_discovery_type
            == Some(ClusterDiscoveryType::Type(
                DiscoveryType::OriginalDst.into(),
            ))
    };
    if original(found) {
        return;
    }
    let warmup = slow_start(balancer);
    let (lb_policy, lb_config) = match balancer.simple {
        Some(Simple::Random) => (LbPolicy::Random, None),
        Some(Simple::RoundRobin) => (
            LbPolicy::RoundRobin,
            warmup.map(|slow_start_config| {
                LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
                    slow_start_config: Some(slow_start_config),
                })
            }),
        ),
        Some(Simple::Passthrough) => {
            found.cluster_discovery_type = Some(ClusterDiscoveryType::Type(
                DiscoveryType::OriginalDst.into(),
            ));
            found.load_assignment = None;
            found.eds_cluster_config = None;
            (LbPolicy::ClusterProvided, None)
        }
        _ => (
            LbPolicy::LeastRequest,
            warmup.map(|slow_start_config| {
                LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                    slow_start_config: Some(slow_start_config),
                    ..LeastRequestLbConfig::default()
                })
            }),
        ),
    };
    found.lb_policy = lb_policy.into();
    found.lb_config = lb_config;
    if let Some(hash) = &balancer.consistent_hash {
        apply_hash(found, hash);
    }
}

/// Whether shares of localities are fixed: by percents, or since those that are near come first.
fn weighs_localities(policy: &Effective<'_>) -> bool {
    match policy.nearness() {
        Nearness::Nobody | Nearness::Default => false,
        Nearness::Service(_) => true,
        Nearness::Setting(setting) => {
            let first = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
            !setting.distribute.is_empty() || (first && policy.outlier_detection.is_some())
        }
    }
}

fn slow_start(balancer: &LoadBalancer) -> Option<SlowStartConfig> {
    let Some(warmup) = &balancer.warmup else {
        return balancer.warmup_duration_secs.map(|window| SlowStartConfig {
            slow_start_window: Some(duration(window)),
            ..SlowStartConfig::default()
        });
    };
    Some(SlowStartConfig {
        slow_start_window: warmup.duration.map(duration),
        aggression: Some(core::RuntimeDouble {
            default_value: warmup.aggression.unwrap_or(1.0),
            runtime_key: AGGRESSION_KEY.to_owned(),
        }),
        min_weight_percent: Some(percent::Percent {
            value: warmup.minimum_percent.unwrap_or(MINIMUM_PERCENT),
        }),
    })
}

fn apply_hash(found: &mut cluster::Cluster, hash: &ConsistentHash) {
    let ring = |size: u64| {
        LbConfig::RingHashLbConfig(RingHashLbConfig {
            minimum_ring_size: Some(UInt64Value { value: size }),
            ..RingHashLbConfig::default()
        })
    };
    let (policy, config) = match (&hash.maglev, &hash.ring_hash) {
        (Some(maglev), _) => {
            let table_size = Some(UInt64Value {
                value: maglev.table_size,
            });
            let config = LbConfig::MaglevLbConfig(MaglevLbConfig { table_size });
            (LbPolicy::Maglev, Some(config))
        }
        (None, Some(given)) => {
            let given = given.minimum_ring_size;
            (LbPolicy::RingHash, (given != 0).then(|| ring(given)))
        }
        (None, None) => {
            let size = match hash.minimum_ring_size {
                0 => RING_SIZE,
                given => given,
            };
            (LbPolicy::RingHash, Some(ring(size)))
        }
    };
    found.lb_policy = policy.into();
    if config.is_some() {
        found.lb_config = config;
    }
}
