//! The translator against a real istiod: the same manifests, the resources compared one by one.
//!
//! The fixtures are what istiod 1.31 sent to a waypoint `default/waypoint`. What differs on purpose is
//! listed beside its test and in `docs/translator.md`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire_tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use prost::Message;
use waypoint_config::resource::ResourceType;
use waypoint_config::standalone::input::manifest::ObjectName;
use waypoint_config::standalone::input::yaml::documents;
use waypoint_config::standalone::state::cluster_state::ClusterState;
use waypoint_config::standalone::state::ownership;
use waypoint_config::standalone::translate::{IpFamilies, Translation, translate};
use wire_tree::Tree;

type Resources = BTreeMap<(ResourceType, String), Vec<u8>>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn translated(scenario: &str) -> Translation {
    let mut all = Vec::new();
    for file in ["bookinfo.yaml", &format!("{scenario}.yaml")] {
        let path = fixture(file);
        all.extend(documents(&path, &std::fs::read_to_string(&path).unwrap()).unwrap());
    }
    let state = ClusterState::read(all).unwrap();
    let gateway = ownership::choose(&state, Some(&ObjectName::new("default", "waypoint"))).unwrap();
    translate(&state, gateway, Some(IpFamilies::V4)).unwrap()
}

fn recorded(scenario: &str) -> Resources {
    let bytes = std::fs::read(fixture(&format!("{scenario}.pb"))).unwrap();
    let responses = DiscoveryResponse::decode(bytes.as_slice())
        .unwrap()
        .resources;
    let mut found = Resources::new();
    for response in responses {
        let response = DeltaDiscoveryResponse::decode(response.value.as_slice()).unwrap();
        for resource in response.resources {
            let any = resource.resource.unwrap();
            let kind = ResourceType::from_type_url(&any.type_url).unwrap();
            found.insert((kind, resource.name), any.value);
        }
    }
    found
}

/// Takes `main_internal` apart, so that each filter chain is compared by its name.
fn by_chain(resources: Resources) -> BTreeMap<String, (ResourceType, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for ((kind, name), body) in resources {
        if (kind, name.as_str()) != (ResourceType::Listener, "main_internal") {
            found.insert(format!("{kind:?} {name}"), (kind, body));
            continue;
        }
        let mut listener = Listener::decode(body.as_slice()).unwrap();
        let mut names = String::new();
        for chain in listener.filter_chains.drain(..) {
            names.push_str(&format!("{}\n", chain.name));
            found.insert(
                format!("chain {}", chain.name),
                (kind, chain.encode_to_vec()),
            );
        }
        // The order of chains, as any message with a text.
        let order = FilterChain {
            name: names,
            ..FilterChain::default()
        };
        found.insert("order of chains".to_owned(), (kind, order.encode_to_vec()));
        found.insert(
            "main_internal without chains".to_owned(),
            (kind, listener.encode_to_vec()),
        );
    }
    found
}

/// Differences between istiod's resources and ours, as `name: path: ours instead of istiod's`.
fn differences(scenario: &str) -> Vec<String> {
    let ours: Resources = translated(scenario)
        .resources
        .into_iter()
        // istiod's answers to this subscription weren't recorded.
        .filter(|resource| resource.kind != ResourceType::Workload)
        .map(|resource| ((resource.kind, resource.name), resource.body.to_vec()))
        .collect();
    let (ours, theirs) = (by_chain(ours), by_chain(recorded(scenario)));
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        match (ours.get(name), theirs.get(name)) {
            (Some((kind, ours)), Some((_, theirs))) => {
                // Neither endpoints nor localities have an order.
                let sorted: &[u32] = if *kind == ResourceType::Endpoints {
                    &[2]
                } else {
                    &[]
                };
                let tree = |body: &[u8]| Tree::of(body, sorted).without_twins();
                let differences = tree(ours).differences(&tree(theirs));
                found.extend(
                    differences
                        .iter()
                        .map(|difference| format!("{name}: {difference}")),
                );
            }
            (Some(_), None) => found.push(format!("{name}: only ours")),
            (None, _) => found.push(format!("{name}: missing")),
        }
    }
    found
}

/// Every difference must begin with one of `expected`, and each of these must still be found.
fn assert_differs_only(scenario: &str, expected: &[&str]) {
    let found = differences(scenario);
    let is_expected =
        |difference: &&String| expected.iter().any(|prefix| difference.starts_with(prefix));
    let others: Vec<&String> = found
        .iter()
        .filter(|difference| !is_expected(difference))
        .collect();
    let all = others
        .iter()
        .map(|difference| difference.as_str())
        .collect::<Vec<_>>()
        .join("\n");
    assert!(others.is_empty(), "{} differences:\n{all}", others.len());
    for prefix in expected {
        assert!(
            found
                .iter()
                .any(|difference| difference.starts_with(prefix)),
            "no longer differs: {prefix}"
        );
    }
}

/// Istio's walk-through: weighted HTTPRoute, policy on the Gateway, access log.
#[test]
fn walkthrough() {
    assert_differs_only("walkthrough", &[]);
}

/// Pod addresses, a service and a pod with labels of their own.
#[test]
fn waypoint_for_all() {
    assert_differs_only("waypoint-for-all", &[]);
}

/// All of HTTPRoute: merged routes, every match and filter, foreign and missing backends. Rules with CORS answer 500.
#[test]
fn httproute() {
    assert_differs_only(
        "httproute",
        &[
            "chain inbound-vip|9080|http|reviews.default.svc.cluster.local: /3[0]/4[0]/2[0]/4[0]/2[0]/3[7]/2[0]: nothing",
            "chain inbound-vip|9080|http|reviews.default.svc.cluster.local: /3[0]/4[0]/2[0]/4[0]/2[0]/3[7]/7[0]: Message({1: [Number(500)]})",
            "chain inbound-vip|9080|http|reviews.default.svc.cluster.local: /3[0]/4[0]/2[0]/4[0]/2[0]/3[7]/13[0]: nothing",
        ],
    );
}

/// All of AuthorizationPolicy. CUSTOM isn't honoured and closes its services; istiod has clusters for its
/// providers. (A principal that istiod repeats for every `from` is told once.)
#[test]
fn authorization() {
    assert_differs_only(
        "authorization",
        &[
            "Cluster outbound|9080||details.default.svc.cluster.local: missing",
            "Cluster outbound|9080||ratings.default.svc.cluster.local: missing",
            "Endpoints outbound|9080||details.default.svc.cluster.local: missing",
            "Endpoints outbound|9080||ratings.default.svc.cluster.local: missing",
            "chain inbound-vip|9080|http|productpage.default.svc.cluster.local",
            "chain inbound-vip|9080|http|reviews-v3.default.svc.cluster.local",
        ],
    );
}

/// MeshConfig. The mesh id of the recording's proxy was fixed by its own metadata, ours follows the trust
/// domain.
#[test]
fn mesh_defaults() {
    let found = differences("mesh-defaults");
    assert_eq!(found.len(), 8, "one tag in every HTTP chain: {found:#?}");
    for difference in found {
        assert!(
            difference.ends_with("Text(\"prod.example\") instead of Text(\"cluster.local\")"),
            "{difference}"
        );
    }
}

/// Dual stack, headless, alias. Traffic distribution isn't honoured; endpoints that terminate, or don't say
/// that they don't, are left out (istiod does so, too, once it has seen the Service before the slice).
#[test]
fn dual_stack() {
    assert_differs_only(
        "dual-stack",
        &[
            "Cluster inbound-vip|80|http|dual.default.svc.cluster.local: /27[0]/3[0]",
            "Endpoints inbound-vip|80|http|dual.default.svc.cluster.local",
        ],
    );
}

/// Every port name and `appProtocol`, UDP among them. GRPCRoute and TCPRoute aren't honoured: their ports
/// have default routes. (The TLSRoute says what is so without it.)
#[test]
fn ports() {
    assert_differs_only(
        "ports",
        &[
            "chain inbound-vip|7070|http|multi.default.svc.cluster.local: /3[0]/4[0]/2[0]/4[0]",
            "chain inbound-vip|9000|tcp|multi.default.svc.cluster.local: /3[2]/4[0]",
        ],
    );
}

/// ServiceEntry: a static one is the same, the others aren't honoured.
#[test]
fn egress() {
    assert_differs_only(
        "egress",
        &[
            "Cluster inbound-vip|443|tcp|api.external.test: missing",
            "Cluster inbound-vip|80|http|*.wild.test: missing",
            "Cluster inbound-vip|80|http|api.external.test: missing",
            "Cluster inbound-vip|80|http|vm.internal.test: missing",
            "Endpoints inbound-vip|80|http|vm.internal.test: missing",
            "chain inbound-vip|443|tcp|api.external.test: missing",
            "chain inbound-vip|80|http|*.wild.test: missing",
            "chain inbound-vip|80|http|api.external.test: missing",
            "chain inbound-vip|80|http|vm.internal.test: missing",
            "main_internal without chains",
            "order of chains",
        ],
    );
    let named: Vec<String> = translated("egress")
        .problems
        .iter()
        .map(|p| p.resource.clone())
        .collect();
    for left_out in [
        "DestinationRule default/dns-tls",
        "ServiceEntry default/dns",
        "ServiceEntry default/vm",
        "ServiceEntry default/wildcard",
        "WorkloadEntry default/vm-1",
    ] {
        assert!(
            named.iter().any(|name| name == left_out),
            "{left_out} must be named"
        );
    }
}
