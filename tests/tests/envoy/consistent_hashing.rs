//! Consistent hashing: the same key leads to the same endpoint through Envoy and through the waypoint.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, MaglevLbConfig, RingHashLbConfig,
};
use envoy_types::pb::envoy::config::core::v3::{HealthStatus, Locality};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use envoy_types::pb::envoy::config::route::v3::route_action::HashPolicy;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Struct, UInt32Value, UInt64Value, Value, value};
use http::{Method, Request, StatusCode};
use waypoint_tests::balancing::{clusters, endpoints, routes, service_of_web};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::ztunnel::{Ztunnel, request};
use waypoint_tests::{App, ControlPlane, Mesh};

const PORT: &str = "{name: http, port: 80, targetPort: 8080}";
const PODS: u8 = 6;

fn ring(min: u64, max: u64, hash_function: i32) -> impl Fn(&mut Cluster) {
    move |cluster| {
        cluster.lb_policy = LbPolicy::RingHash as i32;
        cluster.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
            minimum_ring_size: Some(UInt64Value { value: min }),
            maximum_ring_size: Some(UInt64Value { value: max }),
            hash_function,
        }));
    }
}

fn maglev(size: u64) -> impl Fn(&mut Cluster) {
    move |cluster| {
        cluster.lb_policy = LbPolicy::Maglev as i32;
        cluster.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig {
            table_size: Some(UInt64Value { value: size }),
        }));
    }
}

fn by_locality(cluster: &mut Cluster) {
    let weighted = LocalityWeightedLbConfig::default();
    let config = cluster.common_lb_config.get_or_insert_default();
    config.locality_config_specifier =
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(weighted));
}

/// Weights 1, 2, 3 …
fn weighted(assignment: &mut ClusterLoadAssignment) {
    let endpoints = assignment.endpoints.iter_mut();
    for (weight, endpoint) in (1..).zip(endpoints.flat_map(|l| &mut l.lb_endpoints)) {
        endpoint.load_balancing_weight = Some(UInt32Value { value: weight });
    }
}

/// Two localities that weigh 1 and 3, and one priority more; some endpoints aren't well.
fn placed(assignment: &mut ClusterLoadAssignment) {
    weighted(assignment);
    let mut all = assignment.endpoints[0].clone();
    let mut endpoints: Vec<_> = assignment
        .endpoints
        .iter()
        .flat_map(|l| l.lb_endpoints.clone())
        .collect();
    for sick in [1, 2] {
        endpoints[sick].health_status = HealthStatus::Unhealthy as i32;
    }
    let last = endpoints.split_off(4);
    let second = endpoints.split_off(2);
    let places = [
        ("a", 1, 0, endpoints),
        ("b", 3, 0, second),
        ("c", 1, 1, last),
    ];
    assignment.endpoints = places
        .into_iter()
        .map(|(zone, weight, priority, lb_endpoints)| {
            all.locality = Some(Locality {
                zone: zone.into(),
                ..Locality::default()
            });
            all.load_balancing_weight = Some(UInt32Value { value: weight });
            all.priority = priority;
            all.lb_endpoints = lb_endpoints;
            all.clone()
        })
        .collect();
}

/// Two priorities of three, of which so many are well.
fn failing(assignment: &mut ClusterLoadAssignment, well: [usize; 2]) {
    let mut all = assignment.endpoints[0].clone();
    let endpoints = assignment.endpoints.iter();
    let endpoints: Vec<_> = endpoints.flat_map(|l| l.lb_endpoints.clone()).collect();
    assignment.endpoints = (0..)
        .zip(endpoints.chunks(3).zip(well))
        .map(|(priority, (endpoints, well))| {
            all.priority = priority;
            all.lb_endpoints = endpoints.to_vec();
            for sick in &mut all.lb_endpoints[well..] {
                sick.health_status = HealthStatus::Unhealthy as i32;
            }
            all.clone()
        })
        .collect();
}

/// Panics below a half.
fn panicking(cluster: &mut Cluster) {
    let config = cluster.common_lb_config.get_or_insert_default();
    config.healthy_panic_threshold = Some(Percent { value: 50.0 });
}

/// Endpoints have keys of their own.
fn named(assignment: &mut ClusterLoadAssignment) {
    let endpoints = assignment.endpoints.iter_mut();
    for (n, endpoint) in endpoints.flat_map(|l| &mut l.lb_endpoints).enumerate() {
        let key = Value {
            kind: Some(value::Kind::StringValue(format!("endpoint-{n}"))),
        };
        let metadata = endpoint.metadata.get_or_insert_default();
        metadata.filter_metadata.insert(
            "envoy.lb".into(),
            Struct {
                fields: [("hash_key".to_owned(), key)].into(),
            },
        );
    }
}

fn header(name: &str, rewrite: Option<(&str, &str)>) -> PolicySpecifier {
    PolicySpecifier::Header(Header {
        header_name: name.into(),
        regex_rewrite: rewrite.map(|(regex, substitution)| RegexMatchAndSubstitute {
            pattern: Some(RegexMatcher {
                regex: regex.into(),
                ..RegexMatcher::default()
            }),
            substitution: substitution.into(),
        }),
    })
}

fn all_policies() -> Vec<HashPolicy> {
    let cookie = PolicySpecifier::Cookie(Cookie {
        name: "id".into(),
        ..Cookie::default()
    });
    let query = PolicySpecifier::QueryParameter(QueryParameter { name: "q".into() });
    let policies = [
        (header("x-user", None), false),
        (header("x-rewritten", Some(("([a-z]+)-", r"\1"))), false),
        (header(":path", None), false),
        (cookie, true),
        (query, false),
    ];
    policies
        .map(|(specifier, terminal)| HashPolicy {
            terminal,
            policy_specifier: Some(specifier),
        })
        .into()
}

async fn pods(mesh: &Mesh) -> Vec<PodZtunnel> {
    let mut ztunnels = Vec::new();
    for n in 1..=PODS {
        let name = format!("web-{n}");
        // Some by HBONE, some as they are.
        mesh.describe_pod(n, &name, "web", n % 2 == 0);
        App::http(mesh.backend(n), &name).await;
        if n % 2 == 0 {
            let certificate = mesh.certificate("default", "web");
            ztunnels.push(PodZtunnel::start(mesh.pod_ip(n), &certificate).await);
        }
    }
    ztunnels
}

/// Requests with keys in all the places that policies look at.
fn keys(count: u32) -> impl Iterator<Item = Request<http_body_util::Full<bytes::Bytes>>> {
    (0..count).map(|n| {
        let user = format!("user-{n}");
        let target = match n % 3 {
            0 => "/".to_owned(),
            1 => format!("/?q={n}&q=2"),
            _ => format!("/p?a=1&q=x%20{n}"),
        };
        let cookie = match n % 4 {
            0 => format!("a=b; id=\"{n}\"; id=2"),
            1 => format!("id={n}"),
            _ => "a=b".to_owned(),
        };
        let mut headers = vec![("host", "web"), ("cookie", &*cookie)];
        if n % 5 != 0 {
            headers.push(("x-user", &user));
            headers.push(("x-rewritten", &user));
        }
        let mut asked = request(Method::GET, &target, &headers);
        if n % 7 == 1 {
            asked
                .headers_mut()
                .append("x-user", http::HeaderValue::from_static("more"));
        }
        asked
    })
}

async fn places(via: &Ztunnel, to: SocketAddr, count: u32) -> Vec<String> {
    let mut connection = via.http1(to).await;
    let mut places = Vec::new();
    for asked in keys(count) {
        let answer = connection.send(asked).await;
        assert_eq!(answer.status, StatusCode::OK);
        places.push(answer.header("x-app"));
    }
    places
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn keys_lead_to_the_same_endpoints() {
    type Clusters = Box<dyn Fn(&mut Cluster)>;
    type Endpoints = fn(&mut ClusterLoadAssignment);
    const ALL: u64 = 8 << 20;
    let as_they_are: Endpoints = |_| {};
    let both = |first: Clusters| -> Clusters {
        Box::new(move |cluster| {
            first(cluster);
            by_locality(cluster);
        })
    };
    let with_panic = || -> Clusters {
        Box::new(|cluster| {
            maglev(1009)(cluster);
            panicking(cluster);
        })
    };
    let services: Vec<(&str, Clusters, Endpoints)> = vec![
        ("ring", Box::new(ring(1024, ALL, 0)), as_they_are),
        ("ring-small", Box::new(ring(7, 100, 0)), weighted),
        ("ring-weighted", Box::new(ring(1024, ALL, 0)), weighted),
        ("ring-murmur", Box::new(ring(1024, ALL, 1)), weighted),
        ("ring-placed", both(Box::new(ring(512, ALL, 0))), placed),
        ("ring-named", Box::new(ring(1024, ALL, 0)), named),
        ("maglev", Box::new(maglev(65_537)), as_they_are),
        ("maglev-small", Box::new(maglev(101)), weighted),
        ("maglev-placed", both(Box::new(maglev(1009))), placed),
        ("maglev-named", Box::new(maglev(65_537)), named),
        // How load falls on priorities follows from the hash alone: 47 and 53 percent.
        ("spills", Box::new(maglev(1009)), |a| failing(a, [1, 3])),
        ("short", Box::new(maglev(1009)), |a| failing(a, [1, 1])),
        ("panics", with_panic(), |a| failing(a, [1, 1])),
        ("panics-in-one", with_panic(), |a| failing(a, [0, 1])),
        ("takes-less", Box::new(maglev(1009)), |a| {
            failing(a, [2, 3]);
            a.policy = Some(Policy {
                overprovisioning_factor: Some(UInt32Value { value: 100 }),
                ..Policy::default()
            });
        }),
        ("needs-no-panic", with_panic(), |a| failing(a, [1, 2])),
    ];
    let mesh = Mesh::new();
    let _ztunnels = pods(&mesh).await;
    let to: Vec<SocketAddr> = (1..)
        .zip(&services)
        .map(|(n, (name, ..))| service_of_web(&mesh, n, name, PORT))
        .collect();
    let mut resources = mesh.resources();
    for (name, cluster, assignment) in &services {
        clusters(&mut resources, name, cluster);
        endpoints(&mut resources, name, assignment);
        routes(&mut resources, name, |action| {
            action.hash_policy = all_policies();
        });
    }
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, _client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    let (_envoy, envoy) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let ours = Ztunnel::connect(waypoint.address(), &certificate).await;
    let envoys = Ztunnel::connect(envoy, &certificate).await;
    let (ours, envoys) = (ours.unwrap(), envoys.unwrap());
    for ((name, ..), to) in services.iter().zip(to) {
        let count = 1000;
        let expected = places(&envoys, to, count).await;
        let found = places(&ours, to, count).await;
        let mut shares = BTreeMap::new();
        for pod in &expected {
            *shares.entry(pod).or_insert(0) += 1;
        }
        assert!(shares.len() >= 2, "{name}: {shares:?}");
        let differ: Vec<_> = (0..count)
            .zip(expected.iter().zip(&found))
            .filter(|(_, (envoys, ours))| envoys != ours)
            .collect();
        assert!(
            differ.is_empty(),
            "{name}: {} of {count}, as {:?}",
            differ.len(),
            &differ[..differ.len().min(12)]
        );
    }
}

/// Which pod each client finds whose address is claimed to be one of these.
async fn by_claim(via: &Ztunnel, to: SocketAddr, claims: &[&str]) -> Vec<String> {
    let mut connection = via.http1(to).await;
    let mut pods = Vec::new();
    for claimed in claims {
        let headers = [("host", "web"), ("x-forwarded-for", *claimed)];
        let headers = &headers[..1 + usize::from(!claimed.is_empty())];
        let answer = connection.send(request(Method::GET, "/", headers)).await;
        pods.push(answer.header("x-app"));
    }
    pods
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn the_source_leads_to_the_same_endpoint_and_here_no_header_changes_it() {
    let mesh = Mesh::new();
    let _ztunnels = pods(&mesh).await;
    let to = service_of_web(&mesh, 1, "by-source", PORT);
    let mut resources = mesh.resources();
    clusters(&mut resources, "by-source", maglev(65_537));
    routes(&mut resources, "by-source", |action| {
        let source = ConnectionProperties { source_ip: true };
        action.hash_policy = vec![HashPolicy {
            terminal: false,
            policy_specifier: Some(PolicySpecifier::ConnectionProperties(source)),
        }];
    });
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, _client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    let (_envoy, envoy) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    for n in 100..104 {
        let source = mesh.pod_ip(n);
        let ours = Ztunnel::connect_from(source, waypoint.address(), &certificate).await;
        let envoys = Ztunnel::connect_from(source, envoy, &certificate).await;
        let (ours, envoys) = (ours.unwrap(), envoys.unwrap());
        let expected = by_claim(&envoys, to, &[""]).await;
        assert_eq!(by_claim(&ours, to, &[""]).await, expected);
        let claims = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
        let claimed = by_claim(&ours, to, &claims).await;
        assert!(claimed.iter().all(|pod| *pod == expected[0]));
        // As docs/differences.md says.
        let claimed = by_claim(&envoys, to, &claims).await;
        assert!(claimed.iter().any(|pod| *pod != expected[0]));
    }
}
