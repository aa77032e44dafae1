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

#[test]
fn a_host_with_several_addresses_is_tried_at_all_of_them_where_an_annotation_says_so() {
    use envoy_types::pb::envoy::config::cluster::v3::cluster::DnsLookupFamily;
    let entry = |annotations: &str, endpoints: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: out{annotations}}}, spec: {{hosts: [out.test], \
             addresses: [10.0.0.9], resolution: DNS, ports: [{{number: 80, name: http, protocol: HTTP}}]{endpoints}}}}}"
        )
    };
    let races = ", annotations: {istio.io/connect-strategy: RACE_FIRST_TCP_CONNECT}";
    let two = ", endpoints: [{address: a.test}, {address: b.test}]";
    for (annotations, endpoints, discovery, family) in [
        ("", "", DiscoveryType::StrictDns, DnsLookupFamily::V4Only),
        (races, "", DiscoveryType::LogicalDns, DnsLookupFamily::All),
        // Of several names each has its own addresses.
        (races, two, DiscoveryType::StrictDns, DnsLookupFamily::All),
    ] {
        let found = translated(&entry(annotations, endpoints));
        let found = cluster(&found, "inbound-vip|80|http|out.test");
        assert_eq!(found.dns_lookup_family(), family, "{annotations}");
        let discovery = ClusterDiscoveryType::Type(discovery.into());
        assert_eq!(found.cluster_discovery_type, Some(discovery));
    }
}

#[test]
fn hosts_are_looked_up_as_often_as_the_mesh_says() {
    use super::mesh_settings::mesh;
    let entry = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: out}, spec: {hosts: [out.test], \
                 addresses: [10.0.0.9], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}}";
    for (settings, seconds) in [("", 60), ("dnsRefreshRate: 5s", 5)] {
        let found = translated(&(mesh(settings) + entry));
        let found = cluster(&found, "inbound-vip|80|http|out.test");
        assert_eq!(found.dns_refresh_rate.unwrap().seconds, seconds);
        // For as long as an answer says it holds, else.
        assert!(found.respect_dns_ttl);
    }
}

#[test]
fn a_budget_of_retries_is_a_rules_or_a_backend_traffic_policys() {
    let policy = "{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, metadata: {name: p}, spec: {targetRefs: [{group: '', kind: Service, name: web}], retryConstraint: {budget: {percent: 5, interval: 5s}, minRetryRate: {count: 3, interval: 1s}}}}";
    let own = rule("retryBudget: {percent: 40, minRetryConcurrency: 2, budgetInterval: 10s}");
    for (manifests, percent, least, seconds) in [(own.as_str(), 40.0, 2, 10), (policy, 5.0, 3, 5)] {
        let found = translated(manifests);
        let found = cluster(&found, "inbound-vip|80|http|web.default.svc.cluster.local");
        let limits = found.circuit_breakers.unwrap().thresholds;
        let budget = limits[0].retry_budget.unwrap();
        assert_eq!(budget.budget_percent.unwrap().value, percent, "{manifests}");
        assert_eq!(budget.min_retry_concurrency.unwrap().value, least);
        assert_eq!(budget.budget_interval.unwrap().seconds, seconds);
    }
}
