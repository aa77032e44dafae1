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

/// The pod that the recorded istiod's waypoint ran in; what it says is where "near" is.
const OWN_POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: waypoint-0, namespace: default, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}, spec: {nodeName: n1}}";

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
        let mut text = std::fs::read_to_string(&path).unwrap();
        if scenario == "telemetry-merged" {
            // As it was recorded.
            let all = "HBONE, allowedRoutes: {namespaces: {from: All}}}";
            text = text.replace("HBONE}", all);
        }
        all.extend(documents(&path, &text).unwrap());
    }
    all.extend(documents(Path::new("own.yaml"), OWN_POD).unwrap());
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

/// All of HTTPRoute: merged routes, every match and filter, foreign and missing backends.
#[test]
fn httproute() {
    assert_differs_only("httproute", &[]);
}

/// All of AuthorizationPolicy, both kinds of provider. (A principal that istiod repeats for every `from` is told once.)
#[test]
fn authorization() {
    assert_differs_only("authorization", &[]);
}

/// RequestAuthentication: several issuers, every place of a token, claims to headers; policies on claims.
#[test]
fn jwt() {
    assert_differs_only("jwt", &[]);
}

/// Providers of every sort, and tokens of three namespaces. Keys of a service are fetched before they are needed, here
/// alone. (The recorded istiod left keys to proxies where it could: `PILOT_JWT_ENABLE_REMOTE_JWKS=hybrid`.)
#[test]
fn guards() {
    let async_fetch =
        "/3[0]/4[0]/2[0]/5[2]/4[0]/2[0]/1[0]/2[0]/3[0]/3[0]: Message({}) instead of nothing";
    let chain =
        |name: &str| format!("chain inbound-vip|{name}.default.svc.cluster.local: {async_fetch}");
    assert_differs_only(
        "guards",
        &[&chain("7000|http|mixed"), &chain("9080|http|details")],
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

/// Telemetry: logs of every format and over OTLP, a log's expression, overrides of metrics, tracers; of the Gateway and of
/// Services.
#[test]
fn telemetry() {
    assert_differs_only("telemetry", &[]);
}

/// Telemetry merged: of the mesh, of namespaces, of targets; `defaultProviders`; every kind of provider, unknown ones, ones
/// without a service.
#[test]
fn telemetry_merged() {
    assert_differs_only("telemetry-merged", &[]);
}

/// Dual stack, headless, alias, traffic distribution; endpoints that terminate, or don't say
/// that they don't, are left out (istiod does so, too, once it has seen the Service before the slice).
#[test]
fn dual_stack() {
    // Endpoints that terminate: that istiod had read them before it knew of the service.
    let endpoints = "Endpoints inbound-vip|80|http|dual.default.svc.cluster.local";
    let terminating = ["/2[0]/2[1]: nothing", "/2[0]/3[0]/1[0]: ", "/2[1]: nothing"];
    let terminating = terminating.map(|path| format!("{endpoints}: {path}"));
    assert_differs_only("dual-stack", &terminating.each_ref().map(String::as_str));
}

/// Every port name and `appProtocol`, UDP among them; GRPCRoute, TCPRoute and TLSRoute.
#[test]
fn ports() {
    assert_differs_only("ports", &[]);
}

/// VirtualService and DestinationRule whole: routes, limits, balancing by hash, ejection, subsets, settings of a port.
#[test]
fn traffic_policy() {
    assert_differs_only("traffic-policy", &[]);
}

/// VirtualServices beside each other and beside routes of the Gateway API, and what istiod leaves out of them.
#[test]
fn virtual_service() {
    assert_differs_only("virtual-service", &[]);
}

/// ServiceEntry: static, looked up, with TLS of a DestinationRule, selected machines, a wildcard. The recorded istiod allocated no
/// addresses, and let no TLS to wildcards in.
#[test]
fn egress() {
    assert_differs_only(
        "egress",
        &[
            "Cluster inbound-vip|443|tcp|*.wild.test: only ours",
            "chain inbound-vip|443|tcp|*.wild.test: only ours",
            "main_internal without chains",
            "order of chains",
        ],
    );
}

/// PeerAuthentications of the mesh, of namespaces, pods and ports, beside rules and labels.
#[test]
fn peer_authentication() {
    assert_differs_only("peer-authentication", &[]);
}

/// What MeshConfig says of TLS and of lookups; and of limits, beside settings of a subset's port.
#[test]
fn tls_defaults() {
    assert_differs_only("tls-defaults", &[]);
}

/// Services and entries that other namespaces may not know of, by the mesh's default and by their own words.
#[test]
fn service_exports() {
    // istiod answers for them with 503: chains to clusters without an endpoint.
    let hidden = [
        "hidden-entry.test",
        "hidden.other.svc.cluster.local",
        "nobodys.default.svc.cluster.local",
        "to-itself.other.svc.cluster.local",
    ];
    let mut expected = hidden
        .iter()
        .flat_map(|host| {
            ["Cluster", "Endpoints", "chain"]
                .map(|kind| format!("{kind} inbound-vip|80|http|{host}: missing"))
        })
        .collect::<Vec<_>>();
    expected.extend(["main_internal without chains", "order of chains"].map(String::from));
    let expected = expected.iter().map(String::as_str).collect::<Vec<_>>();
    assert_differs_only("service-exports", &expected);
}
