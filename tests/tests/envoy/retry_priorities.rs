//! Retries that leave out priorities that were tried: attempts go where Envoy's go.

use envoy_types::pb::envoy::config::route::v3::RetryPolicy;
use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_priority::ConfigType;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{RetryBackOff, RetryPriority};
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};
use http::{Method, StatusCode};
use prost::{Message, Name};
use waypoint_tests::balancing::{endpoints, pods, routes, service_of_web};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::ztunnel::{Ztunnel, request};
use waypoint_tests::{App, ControlPlane, Mesh};

const PORT: &str = "{name: http, port: 80, targetPort: 8080}";
/// After how many attempts priorities are left out.
const FREQUENCIES: [i32; 4] = [1, 2, 3, 5];
const RETRIES: u32 = 8;

fn policy(update_frequency: i32) -> RetryPolicy {
    let config = PreviousPrioritiesConfig { update_frequency };
    let millisecond = Some(Duration {
        seconds: 0,
        nanos: 1_000_000,
    });
    RetryPolicy {
        retry_on: "5xx".into(),
        num_retries: Some(UInt32Value { value: RETRIES }),
        retry_priority: Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".into(),
            config_type: Some(ConfigType::TypedConfig(Any {
                type_url: PreviousPrioritiesConfig::type_url(),
                value: config.encode_to_vec(),
            })),
        }),
        retry_back_off: Some(RetryBackOff {
            base_interval: millisecond,
            max_interval: millisecond,
        }),
        ..RetryPolicy::default()
    }
}

/// How many attempts each pod saw.
async fn attempts(via: &Ztunnel, to: std::net::SocketAddr, apps: &[App]) -> Vec<usize> {
    apps.iter().for_each(App::forget);
    let asked = request(Method::GET, "/", &[("host", "web"), ("x-status", "503")]);
    let answer = via.request(to, asked).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    apps.iter().map(|app| app.seen().len()).collect()
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn attempts_go_to_the_same_priorities() {
    let mesh = Mesh::new();
    let apps = pods(&mesh, 3).await;
    let names = FREQUENCIES.map(|frequency| format!("after-{frequency}"));
    let to: Vec<_> = (1..)
        .zip(&names)
        .map(|(n, name)| service_of_web(&mesh, n, name, PORT))
        .collect();
    let mut resources = mesh.resources();
    for (name, frequency) in names.iter().zip(FREQUENCIES) {
        routes(&mut resources, name, |route| {
            route.retry_policy = Some(policy(frequency));
        });
        // Each pod is a priority of its own.
        endpoints(&mut resources, name, |assignment| {
            let of_all = assignment.endpoints.iter();
            let of_all: Vec<_> = of_all.flat_map(|l| l.lb_endpoints.clone()).collect();
            let one = assignment.endpoints[0].clone();
            assignment.endpoints = (0..)
                .zip(of_all)
                .map(|(priority, endpoint)| {
                    let mut locality = one.clone();
                    locality.priority = priority;
                    locality.lb_endpoints = vec![endpoint];
                    locality
                })
                .collect();
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
    for (name, to) in names.iter().zip(to) {
        let expected = attempts(&envoys, to, &apps).await;
        assert_eq!(expected.iter().sum::<usize>(), 1 + RETRIES as usize);
        assert_eq!(attempts(&ours, to, &apps).await, expected, "{name}");
    }
}
