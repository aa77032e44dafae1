//! Active checks: the same pods are in and out as with Envoy, and its counters have the same names and numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::HealthCheck;
use envoy_types::pb::envoy::config::core::v3::health_check::HealthChecker;
use envoy_types::pb::envoy::r#type::v3::{Int64Range, Percent};
use http::StatusCode;
use waypoint_tests::balancing::{clusters, pods, service_of_web};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::health_checks::{every, grpc, http, millis, tcp};
use waypoint_tests::telemetry::admin_get;
use waypoint_tests::wait::until;
use waypoint_tests::{ControlPlane, Mesh};

const PORT: &str = "{name: http, port: 80, targetPort: 8080}";
const GRPC: &str = "{name: grpc, port: 80, targetPort: 8080}";
const HOUR: u32 = 3_600_000;

/// By service: what is said of each pod's health, and the counters.
type Found = BTreeMap<String, (BTreeMap<String, String>, BTreeMap<String, u64>)>;

async fn found(admin: SocketAddr) -> Found {
    let text = admin_get(admin, "/clusters").await;
    let stats = admin_get(admin, "/stats?filter=health_check|membership_healthy").await;
    let service = |text: &str| {
        let name = text.split("case-").nth(1)?;
        Some(format!("case-{}", name.split('.').next()?))
    };
    let mut found = Found::new();
    for line in text.lines().filter(|l| l.contains("::health_flags::")) {
        let Some(service) = service(line) else {
            continue;
        };
        let (pod, flags) = line.split_once("::health_flags::").unwrap();
        let pod = pod.rsplit("::").next().unwrap();
        let of_service = found.entry(service).or_default();
        of_service.0.insert(pod.to_owned(), flags.to_owned());
    }
    for line in stats.lines() {
        let Some(service) = service(line) else {
            continue;
        };
        let (name, value) = line.rsplit_once(": ").unwrap();
        let name = name.rsplit_once("local").map_or(name, |(_, name)| name);
        let name = name.trim_start_matches([';', '.']);
        let counters = &mut found.entry(service).or_default().1;
        counters.insert(name.to_owned(), value.parse().unwrap());
    }
    found
}

/// The cases: whatever is asked, the first pod is well, the second answers 503 and nobody listens at the third.
fn cases() -> Vec<HealthCheck> {
    let mut statuses = http("/ready");
    if let HealthChecker::HttpHealthCheck(http) = &mut statuses {
        http.expected_statuses = vec![Int64Range {
            start: 500,
            end: 600,
        }];
        http.retriable_statuses = vec![Int64Range {
            start: 200,
            end: 201,
        }];
    }
    let mut http2 = http("/ready");
    if let HealthChecker::HttpHealthCheck(http) = &mut http2 {
        http.codec_client_type = 1;
        // Its cluster's name is no authority, for applications.
        http.host = "health.test".to_owned();
    }
    let mut of_grpc = grpc("");
    if let HealthChecker::GrpcHealthCheck(grpc) = &mut of_grpc {
        grpc.authority = "health.test".to_owned();
    }
    [
        http("/ready"),
        statuses,
        http2,
        tcp(b"", b""),
        tcp(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"200 OK"),
        of_grpc,
    ]
    .map(|asks| every(HOUR, asks))
    .into()
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn the_same_pods_are_out_and_the_counters_agree() {
    let mesh = Mesh::new();
    let apps = pods(&mesh, 2).await;
    mesh.describe_pod(3, "web-3", "web", false);
    apps[1].fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    let cases = cases();
    for n in 0..cases.len() {
        // Envoy checks by gRPC only who speaks HTTP/2.
        let port = if n == 5 { GRPC } else { PORT };
        service_of_web(&mesh, n as u8 + 1, &format!("case-{n}"), port);
    }
    let mut resources = mesh.resources();
    for (n, check) in cases.iter().enumerate() {
        clusters(&mut resources, &format!("case-{n}"), |cluster| {
            let config = cluster.common_lb_config.get_or_insert_default();
            config.healthy_panic_threshold = Some(Percent { value: 0.0 });
            let mut check = check.clone();
            if n == 4 {
                // What doesn't come within it doesn't come.
                check.timeout = millis(2_000);
            }
            cluster.health_checks = vec![check];
        });
    }
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, _client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    let (_envoy, _) = Envoy::beside(&mesh, &resources).await;
    let admin = SocketAddr::new(mesh.pod_ip(253), 15000);
    let done = async |admin: SocketAddr| {
        until("every pod to be checked", async || {
            let found = found(admin).await;
            let all = found.values().all(|(_, counters)| {
                let of = |name: &str| counters.get(name).copied().unwrap_or_default();
                of("health_check.success") + of("health_check.failure") == 3
            });
            (all && found.len() == cases.len()).then_some(found)
        })
        .await
    };
    let (envoys, ours) = (done(admin).await, done(waypoint.running.admin_addr).await);
    for n in 0..cases.len() {
        let case = format!("case-{n}");
        let (envoys_flags, mut envoys) = envoys[&case].clone();
        let (ours_flags, ours) = ours[&case].clone();
        // Nobody is degraded here.
        envoys.retain(|name, _| !name.contains("degrad"));
        assert_eq!(ours_flags, envoys_flags, "{case}");
        let names = |of: &BTreeMap<String, u64>| of.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&ours), names(&envoys), "{case}");
        assert_eq!(ours, envoys, "{case}");
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn who_recovers_and_who_fails_is_in_and_out_after_as_many_checks() {
    let mesh = Mesh::new();
    let apps = pods(&mesh, 2).await;
    service_of_web(&mesh, 1, "case-0", PORT);
    let mut resources = mesh.resources();
    let mut asks = http("/ready");
    if let HealthChecker::HttpHealthCheck(http) = &mut asks {
        http.retriable_statuses = vec![Int64Range {
            start: 503,
            end: 504,
        }];
    }
    let check = every(300, asks);
    clusters(&mut resources, "case-0", |cluster| {
        cluster.health_checks = vec![check.clone()];
    });
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, _client) = mesh.started_under(&istiod).await;
    let (_envoy, _) = Envoy::beside(&mesh, &resources).await;
    let both = [
        SocketAddr::new(mesh.pod_ip(253), 15000),
        waypoint.running.admin_addr,
    ];
    let second = mesh.backend(2).to_string();
    for (status, flags) in [
        (None, "healthy"),
        (Some(StatusCode::SERVICE_UNAVAILABLE), "/failed_active_hc"),
        (None, "healthy"),
        (Some(StatusCode::NOT_FOUND), "/failed_active_hc"),
        (Some(StatusCode::OK), "healthy"),
    ] {
        apps[1].fail(status);
        for admin in both {
            until(&format!("{flags} for {status:?} at {admin}"), async || {
                let found = found(admin).await;
                (found.get("case-0")?.0.get(&second)? == flags).then_some(())
            })
            .await;
        }
    }
}
