//! When too few endpoints are well: all of them are used, or none (`fail_traffic_on_panic`), as by Envoy.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, ZoneAwareLbConfig,
};
use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::r#type::v3::Percent;
use http::StatusCode;
use waypoint_tests::balancing::{clusters, endpoints, pods, service_of_web};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::ztunnel::{Ztunnel, get};
use waypoint_tests::{ControlPlane, Mesh};

const PORT: &str = "{name: http, port: 80, targetPort: 8080}";
/// The policy, how many of three endpoints are well, and whether traffic is to fail in a panic.
const CASES: [(LbPolicy, usize, bool); 7] = [
    (LbPolicy::LeastRequest, 1, false),
    (LbPolicy::LeastRequest, 1, true),
    (LbPolicy::LeastRequest, 0, true),
    (LbPolicy::LeastRequest, 2, true),
    (LbPolicy::RoundRobin, 1, true),
    (LbPolicy::Random, 1, true),
    (LbPolicy::RingHash, 1, true),
];

#[tokio::test]
#[ignore = "needs Envoy"]
async fn a_panic_uses_all_endpoints_or_none() {
    let mesh = Mesh::new();
    let _apps = pods(&mesh, 3).await;
    let names: Vec<String> = (0..CASES.len()).map(|n| format!("case-{n}")).collect();
    let to: Vec<SocketAddr> = (1..)
        .zip(&names)
        .map(|(n, name)| service_of_web(&mesh, n, name, PORT))
        .collect();
    let mut resources = mesh.resources();
    for (name, (policy, well, fails)) in names.iter().zip(CASES) {
        clusters(&mut resources, name, |cluster| {
            cluster.lb_policy = policy.into();
            let config = cluster.common_lb_config.get_or_insert_default();
            config.healthy_panic_threshold = Some(Percent { value: 50.0 });
            config.locality_config_specifier = Some(LocalityConfigSpecifier::ZoneAwareLbConfig(
                ZoneAwareLbConfig {
                    routing_enabled: Some(Percent { value: 100.0 }),
                    fail_traffic_on_panic: fails,
                    ..ZoneAwareLbConfig::default()
                },
            ));
        });
        endpoints(&mut resources, name, |found| {
            let all = found.endpoints.iter_mut().flat_map(|l| &mut l.lb_endpoints);
            for endpoint in all.skip(well) {
                endpoint.health_status = HealthStatus::Unhealthy.into();
            }
        });
    }
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, _client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    let (_envoy, envoy) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let mut answered: Vec<Vec<(usize, StatusCode)>> = Vec::new();
    for address in [waypoint.address(), envoy] {
        let via = Ztunnel::connect(address, &certificate).await.unwrap();
        let mut found = Vec::new();
        for to in &to {
            let mut connection = via.http1(*to).await;
            let mut apps = std::collections::BTreeSet::new();
            let mut status = StatusCode::OK;
            for _ in 0..60 {
                let answer = connection.send(get("/")).await;
                status = answer.status;
                apps.insert(answer.header("x-app"));
            }
            found.push((apps.len(), status));
        }
        answered.push(found);
    }
    let [ours, envoys] = answered.as_slice() else {
        panic!("two were asked")
    };
    for ((case, ours), envoys) in CASES.iter().zip(ours).zip(envoys) {
        assert_eq!(ours, envoys, "{case:?}");
    }
    // What was compared is both.
    assert_eq!(ours[0], (3, StatusCode::OK));
    assert_eq!(ours[1], (1, StatusCode::SERVICE_UNAVAILABLE));
}
