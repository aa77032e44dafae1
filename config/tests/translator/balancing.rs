//! What `simple` of a load balancer makes of a cluster.

use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbPolicy,
};

use super::mesh_settings::{cluster, rule};
use super::*;

#[test]
fn simple_policies_by_name() {
    let (eds, original) = (DiscoveryType::Eds, DiscoveryType::OriginalDst);
    for (simple, expected, discovery) in [
        ("UNSPECIFIED", LbPolicy::LeastRequest, eds),
        ("LEAST_REQUEST", LbPolicy::LeastRequest, eds),
        ("LEAST_CONN", LbPolicy::LeastRequest, eds),
        ("ROUND_ROBIN", LbPolicy::RoundRobin, eds),
        ("RANDOM", LbPolicy::Random, eds),
        // Where the client wanted to go, whoever is there.
        ("PASSTHROUGH", LbPolicy::ClusterProvided, original),
    ] {
        let found = translated(&rule(&format!("loadBalancer: {{simple: {simple}}}")));
        let name = "inbound-vip|80|http|web.default.svc.cluster.local";
        let found = cluster(&found, name);
        assert_eq!(found.lb_policy(), expected, "{simple}");
        let found = found.cluster_discovery_type;
        let discovery = ClusterDiscoveryType::Type(discovery.into());
        assert_eq!(found, Some(discovery), "{simple}");
    }
}
