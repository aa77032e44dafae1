//! Endpoints in several places: shares of localities by weight, and priorities that fail over.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::CommonLbConfig;
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};
use envoy_types::pb::envoy::config::core::v3::HealthStatus::{Healthy, Unhealthy};
use envoy_types::pb::envoy::config::core::v3::{HealthStatus, Locality, address};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::config::route::v3::retry_policy::RetryPriority;
use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_priority::ConfigType;
use envoy_types::pb::envoy::config::route::v3::{RetryPolicy, RouteAction};
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use http::StatusCode;
use prost::{Message, Name};
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::balancing::routes;
use waypoint_tests::discovery::AdsStream;
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::ztunnel::{Http1, get};
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint};

const WEB: &str = "inbound-vip|80|http|web.default.svc.cluster.local";
/// The pods of `web`.
const PODS: [&str; 3] = ["near-1", "near-2", "far-1"];

/// A service with pods in two zones, and the waypoint that leads there by the locality's weight.
struct Zones {
    waypoint: Waypoint,
    connection: Http1,
    stream: AdsStream,
    /// By pod.
    endpoints: BTreeMap<&'static str, LbEndpoint>,
    _istiod: ControlPlane,
    peers: Vec<(App, PodZtunnel)>,
    _mesh: Mesh,
}

/// Priority, zone, weight, and its pods with their health.
type Place<'a> = (u32, &'a str, u32, &'a [(&'a str, HealthStatus)]);

impl Zones {
    async fn start() -> Zones {
        Zones::start_with(|_| {}).await
    }

    /// With resources of the story's own.
    async fn start_with(change: impl FnOnce(&mut Vec<Resource>)) -> Zones {
        let mesh = Mesh::new();
        let mut peers = Vec::new();
        for (n, pod) in (1..).zip(PODS) {
            mesh.describe_pod(n, pod, "web", true);
            let app = App::http(mesh.backend(n), pod).await;
            let certificate = mesh.certificate("default", "web");
            peers.push((app, PodZtunnel::start(mesh.pod_ip(n), &certificate).await));
        }
        let to = mesh.service(1, "web");
        let mut resources = mesh.resources();
        let mut endpoints = BTreeMap::new();
        for resource in resources.iter_mut().filter(|r| r.name == WEB) {
            match resource.kind {
                ResourceType::Cluster => {
                    let mut cluster = Cluster::decode(&*resource.body).unwrap();
                    by_locality_weight(cluster.common_lb_config.get_or_insert_default());
                    resource.body = cluster.encode_to_vec().into();
                }
                ResourceType::Endpoints => {
                    let all = ClusterLoadAssignment::decode(&*resource.body).unwrap();
                    for endpoint in all.endpoints.into_iter().flat_map(|l| l.lb_endpoints) {
                        let pod = (1..).zip(PODS).find(|(n, _)| {
                            is_at(&endpoint, SocketAddr::new(mesh.pod_ip(*n), 8080))
                        });
                        endpoints.insert(pod.unwrap().1, endpoint);
                    }
                }
                _ => {}
            }
        }
        change(&mut resources);
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(resources);
        let (waypoint, client) = mesh.started_under(&istiod).await;
        istiod.discovery.until_answered().await;
        assert_eq!(istiod.discovery.refusals(), [""; 0]);
        Zones {
            connection: client.http1(to).await,
            stream: istiod.discovery.stream(0).await,
            waypoint,
            endpoints,
            _istiod: istiod,
            peers,
            _mesh: mesh,
        }
    }

    /// Pushes where the pods are.
    async fn place(&self, places: &[Place<'_>]) {
        let places = places.iter().map(|(priority, zone, weight, pods)| {
            let endpoint = |(pod, health): &(&str, HealthStatus)| LbEndpoint {
                health_status: *health as i32,
                ..self.endpoints[pod].clone()
            };
            LocalityLbEndpoints {
                locality: Some(Locality {
                    zone: (*zone).into(),
                    ..Locality::default()
                }),
                load_balancing_weight: Some(UInt32Value { value: *weight }),
                lb_endpoints: pods.iter().map(endpoint).collect(),
                priority: *priority,
                ..LocalityLbEndpoints::default()
            }
        });
        let assignment = ClusterLoadAssignment {
            cluster_name: WEB.into(),
            endpoints: places.collect(),
            ..ClusterLoadAssignment::default()
        };
        let resource = Resource {
            kind: ResourceType::Endpoints,
            name: WEB.into(),
            body: assignment.encode_to_vec().into(),
        };
        let nonce = self.stream.push(ResourceType::Endpoints, &[resource], &[]);
        assert_eq!(self.stream.verdict(&nonce).await, Ok(()));
    }

    /// How many of 400 requests each pod answers.
    async fn shares(&mut self) -> [u32; 3] {
        let mut answered = BTreeMap::new();
        for _ in 0..400 {
            let answer = self.connection.send(get("/")).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            *answered.entry(answer.header("x-app")).or_insert(0) += 1;
        }
        PODS.map(|pod| answered.get(pod).copied().unwrap_or_default())
    }
}

fn by_locality_weight(config: &mut CommonLbConfig) {
    config.locality_config_specifier = Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
        LocalityWeightedLbConfig::default(),
    ));
}

fn is_at(endpoint: &LbEndpoint, to: SocketAddr) -> bool {
    let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
        return false;
    };
    let address = endpoint.address.as_ref().and_then(|a| a.address.as_ref());
    matches!(address, Some(address::Address::EnvoyInternalAddress(internal)) if internal.endpoint_id == to.to_string())
}
#[tokio::test]
async fn localities_share_by_weight_until_one_loses_its_endpoints() {
    let mut zones = Zones::start().await;
    // Three to one, though near has two pods of three.
    let near = [("near-1", Healthy), ("near-2", Healthy)];
    let far: Place<'_> = (0, "far", 3, &[("far-1", Healthy)]);
    zones.place(&[(0, "near", 1, &near), far]).await;
    let [a, b, far_1] = zones.shares().await;
    assert!((255..=345).contains(&far_1), "300 of 400: {far_1}");
    assert!(
        a > 20 && b > 20,
        "within a locality by the policy: {a}, {b}"
    );

    // Half of near is worth 0.7 of its weight: 6.3 to 3.
    let half = [("near-1", Healthy), ("near-2", Unhealthy)];
    zones.place(&[(0, "near", 9, &half), far]).await;
    let [a, b, far_1] = zones.shares().await;
    assert_eq!(b, 0);
    assert!((90..=170).contains(&far_1), "129 of 400: {a}, {far_1}");

    // All that near had is unhealthy; then it is gone.
    let sick = [("near-1", Unhealthy), ("near-2", Unhealthy)];
    for near in [&sick[..], &[]] {
        zones.place(&[(0, "near", 9, near), far]).await;
        assert_eq!(zones.shares().await, [0, 0, 400]);
    }
    // A weight of 0 gets nothing, healthy or not; and all comes back.
    zones
        .place(&[(0, "near", 9, &near), (0, "far", 0, far.3)])
        .await;
    assert_eq!(zones.shares().await[2], 0);

    let to_web = [
        ("destination_service", "web.default.svc.cluster.local"),
        ("response_code", "200"),
    ];
    zones
        .waypoint
        .until_metric("istio_requests_total", &to_web, 2000.0)
        .await;
}

#[tokio::test]
async fn priorities_fail_over_and_back() {
    let mut zones = Zones::start().await;
    let far: Place<'_> = (1, "far", 1, &[("far-1", Healthy)]);
    let both = [("near-1", Healthy), ("near-2", Healthy)];
    let half = [("near-1", Healthy), ("near-2", Unhealthy)];
    let none = [("near-1", Unhealthy), ("near-2", Unhealthy)];
    zones.place(&[(0, "near", 2, &both), far]).await;
    assert_eq!(zones.shares().await[2], 0);

    // 1.4 times a half stays; the rest spills.
    zones.place(&[(0, "near", 2, &half), far]).await;
    let [_, b, far_1] = zones.shares().await;
    assert_eq!(b, 0);
    assert!((80..=160).contains(&far_1), "120 of 400: {far_1}");

    zones.place(&[(0, "near", 2, &none), far]).await;
    assert_eq!(zones.shares().await, [0, 0, 400]);

    // Nobody is left, and istiod's threshold of 0 never panics.
    let sick: Place<'_> = (1, "far", 1, &[("far-1", Unhealthy)]);
    zones.place(&[(0, "near", 2, &none), sick]).await;
    let answer = zones.connection.send(get("/nobody")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let line = zones.waypoint.until_logged("/nobody").await;
    assert!(line.contains(" 503 UH "), "{line}");

    zones.place(&[(0, "near", 2, &both), far]).await;
    assert_eq!(zones.shares().await[2], 0);
}

/// Two retries of 5xx, the second away from where the first two attempts went.
fn retries_go_elsewhere(route: &mut RouteAction) {
    let config = PreviousPrioritiesConfig {
        update_frequency: 2,
    };
    route.retry_policy = Some(RetryPolicy {
        retry_on: "5xx".into(),
        num_retries: Some(UInt32Value { value: 2 }),
        retry_priority: Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".into(),
            config_type: Some(ConfigType::TypedConfig(Any {
                type_url: PreviousPrioritiesConfig::type_url(),
                value: config.encode_to_vec(),
            })),
        }),
        ..RetryPolicy::default()
    });
}

#[tokio::test]
async fn retries_leave_out_priorities_that_were_tried() {
    for (elsewhere, far_answers) in [(false, StatusCode::BAD_GATEWAY), (true, StatusCode::OK)] {
        let mut zones = Zones::start_with(|resources| {
            routes(resources, "web", |route| {
                retries_go_elsewhere(route);
                if !elsewhere && let Some(policy) = &mut route.retry_policy {
                    policy.retry_priority = None;
                }
            });
        })
        .await;
        let near = [("near-1", Healthy), ("near-2", Healthy)];
        let far: Place<'_> = (1, "far", 1, &[("far-1", Healthy)]);
        zones.place(&[(0, "near", 2, &near), far]).await;
        for (app, _) in &zones.peers[..2] {
            app.fail(Some(StatusCode::BAD_GATEWAY));
        }
        for n in 1..=5 {
            let answer = zones.connection.send(get("/")).await;
            assert_eq!(answer.status, far_answers);
            let seen = |app: &App| app.seen().len();
            let seen: Vec<_> = zones.peers.iter().map(|(app, _)| seen(app)).collect();
            let (near, far) = if elsewhere { (2, 1) } else { (3, 0) };
            assert_eq!((seen[0] + seen[1], seen[2]), (near * n, far * n));
        }
    }
}
