//! Outlier detection: of endpoints that fail alike, as many are out as with Envoy, and its counters have the same names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value};
use http::Method;
use waypoint_tests::balancing::{clusters, pods, service_of_web};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::telemetry::admin_get;
use waypoint_tests::ztunnel::{Ztunnel, request};
use waypoint_tests::{ControlPlane, Mesh};

const PORT: &str = "{name: http, port: 80, targetPort: 8080}";
/// What is answered, `max_ejection_percent`, `always_eject_one_host`, whether errors are split.
type Case = (&'static str, u32, bool, bool);
const CASES: [Case; 9] = [
    ("503", 10, false, false),
    ("503", 10, true, false),
    ("503", 33, false, false),
    ("503", 34, false, false),
    ("500", 50, false, false),
    ("500", 67, false, true),
    ("503", 100, false, true),
    ("404", 100, false, false),
    ("599", 66, true, false),
];

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// By service: how many hosts are out, and the counters.
type Found = BTreeMap<String, (usize, BTreeMap<String, u64>)>;

async fn found(admin: SocketAddr) -> Found {
    let text = admin_get(admin, "/clusters").await;
    let stats = admin_get(admin, "/stats?filter=outlier_detection").await;
    let service = |text: &str| {
        let name = text.split("case-").nth(1)?;
        Some(format!("case-{}", name.split('.').next()?))
    };
    let mut found = Found::new();
    for line in text.lines().filter(|l| l.contains("/failed_outlier_check")) {
        found.entry(service(line).unwrap()).or_default().0 += 1;
    }
    for line in stats.lines() {
        let Some(service) = service(line) else {
            continue;
        };
        let (name, value) = line.rsplit_once(": ").unwrap();
        let (_, name) = name.split_once("outlier_detection.").unwrap();
        let counters = &mut found.entry(service).or_default().1;
        counters.insert(name.to_owned(), value.parse().unwrap());
    }
    found
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn as_many_are_out_and_the_counters_agree() {
    let mesh = Mesh::new();
    let _apps = pods(&mesh, 3).await;
    let names: Vec<String> = (0..CASES.len()).map(|n| format!("case-{n}")).collect();
    let to: Vec<SocketAddr> = (1..)
        .zip(&names)
        .map(|(n, name)| service_of_web(&mesh, n, name, PORT))
        .collect();
    let mut resources = mesh.resources();
    for (name, (_, percent, always, split)) in names.iter().zip(CASES) {
        clusters(&mut resources, name, |cluster| {
            cluster.lb_policy = LbPolicy::RoundRobin as i32;
            let config = cluster.common_lb_config.get_or_insert_default();
            config.healthy_panic_threshold = Some(Percent { value: 0.0 });
            cluster.outlier_detection = Some(OutlierDetection {
                consecutive_gateway_failure: number(4),
                enforcing_consecutive_gateway_failure: number(0),
                interval: Some(Duration {
                    seconds: 3600,
                    nanos: 0,
                }),
                max_ejection_percent: number(percent),
                always_eject_one_host: Some(BoolValue { value: always }),
                split_external_local_origin_errors: split,
                ..OutlierDetection::default()
            });
        });
    }
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, _client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    let (_envoy, envoy) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    for address in [waypoint.address(), envoy] {
        let via = Ztunnel::connect(address, &certificate).await.unwrap();
        for (to, (status, ..)) in to.iter().zip(CASES) {
            let mut connection = via.http1(*to).await;
            for _ in 0..15 {
                let asked = request(Method::GET, "/", &[("host", "web"), ("x-status", status)]);
                connection.send(asked).await;
                // Who ejects is another thread.
                tokio::time::sleep(std::time::Duration::from_millis(15)).await;
            }
        }
    }
    let admin = SocketAddr::new(mesh.pod_ip(253), 15000);
    let envoys = found(admin).await;
    let ours = found(waypoint.running.admin_addr).await;
    // What is no longer kept up, or never had an effect.
    let old = [
        "ejections_consecutive_5xx",
        "ejections_success_rate",
        "ejections_total",
    ];
    for (name, case) in names.iter().zip(CASES) {
        let (envoys_out, mut envoys) = envoys[name].clone();
        let (ours_out, ours) = ours[name].clone();
        envoys.retain(|name, _| !old.contains(&&**name) && !name.contains("degrad"));
        assert_eq!(ours_out, envoys_out, "{case:?}");
        let names = |of: &BTreeMap<String, u64>| of.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&ours), names(&envoys), "{case:?}");
        assert_eq!(ours, envoys, "{case:?}");
    }
}
