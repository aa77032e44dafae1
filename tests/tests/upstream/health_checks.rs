//! Active checks: a pod gets nothing before it passed its first one, nor while it fails them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::health_check::HealthChecker;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, HealthCheck};
use envoy_types::pb::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use envoy_types::pb::envoy::config::endpoint::v3::{LbEndpoint, lb_endpoint};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_config::resource::Resource;
use waypoint_tests::balancing::{clusters, endpoints, pods};
use waypoint_tests::health_checks::{GrpcHealth, every, grpc, http, millis, tcp};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{Ztunnel, get};
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint};

const HOUR: u32 = 3_600_000;

/// The mesh's resources, where `web` takes turns and is checked so. No panic: who fails gets nothing.
fn checked(mesh: &Mesh, check: &HealthCheck) -> Vec<Resource> {
    let mut resources = mesh.resources();
    clusters(&mut resources, "web", |cluster| watch(cluster, check));
    resources
}

fn watch(cluster: &mut Cluster, check: &HealthCheck) {
    cluster.lb_policy = LbPolicy::RoundRobin as i32;
    let common = cluster.common_lb_config.get_or_insert_default();
    common.healthy_panic_threshold = Some(Percent { value: 0.0 });
    cluster.health_checks = vec![check.clone()];
}

async fn start(mesh: &Mesh, resources: Vec<Resource>) -> (ControlPlane, Waypoint, Ztunnel) {
    let istiod = ControlPlane::start(mesh).await;
    istiod.discovery.set(resources);
    let (waypoint, client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    (istiod, waypoint, client)
}

/// Which pods answer 30 requests, all of them with 200.
async fn answering(client: &Ztunnel, to: SocketAddr) -> BTreeSet<String> {
    let mut connection = client.http1(to).await;
    let mut pods = BTreeSet::new();
    for _ in 0..30 {
        let answer = connection.send(get("/")).await;
        assert_eq!(answer.status, StatusCode::OK);
        pods.insert(answer.header("x-app"));
    }
    pods
}

async fn stat(waypoint: &Waypoint, name: &str) -> u64 {
    let filter = format!("/stats?filter=web.default.*{name}$");
    let stats = waypoint.admin(&filter).await;
    let line = stats.trim().rsplit_once(": ");
    line.map_or(0, |(_, value)| value.parse().unwrap())
}

async fn until_healthy(waypoint: &Waypoint, count: u64) {
    until(&format!("{count} pods are well"), async || {
        (stat(waypoint, "membership_healthy").await == count).then_some(())
    })
    .await;
}

/// What `/clusters` says of a pod's health.
async fn flags(waypoint: &Waypoint, pod: SocketAddr) -> Option<String> {
    let text = waypoint.admin("/clusters").await;
    let key = format!("{pod}::health_flags::");
    let mut lines = text.lines();
    lines.find_map(|line| Some(line.split_once(&key)?.1.to_owned()))
}

#[tokio::test]
async fn a_pod_that_fails_its_checks_gets_nothing_until_it_passes_again() {
    let mesh = Mesh::new();
    let apps = pods(&mesh, 3).await;
    let to = mesh.service(1, "web");
    let (_istiod, waypoint, client) =
        start(&mesh, checked(&mesh, &every(50, http("/ready")))).await;
    until_healthy(&waypoint, 3).await;
    assert_eq!(answering(&client, to).await.len(), 3);
    apps[1].fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    until_healthy(&waypoint, 2).await;
    assert!(!answering(&client, to).await.contains("web-2"));
    let failed = flags(&waypoint, mesh.backend(2)).await;
    assert_eq!(failed.as_deref(), Some("/failed_active_hc"));
    let json = waypoint.admin("/clusters?format=json").await;
    assert!(
        json.contains("\"failed_active_health_check\": true"),
        "{json}"
    );
    assert_eq!(stat(&waypoint, "health_check.healthy").await, 2);
    assert!(stat(&waypoint, "health_check.failure").await > 0);
    assert_eq!(stat(&waypoint, "health_check.network_failure").await, 0);
    let view = waypoint.admin("/view/endpoints").await;
    assert!(view.contains("\"failsChecks\":true") || view.contains("\"failsChecks\": true"));
    apps[1].fail(None);
    until_healthy(&waypoint, 3).await;
    assert!(answering(&client, to).await.contains("web-2"));
    let seen = apps[0].seen();
    let check = seen.iter().find(|seen| seen.target == "/ready").unwrap();
    assert_eq!(check.header("user-agent"), "Envoy/HC");
    assert_eq!(
        check.header("host"),
        "inbound-vip|80|http|web.default.svc.cluster.local"
    );
}

#[tokio::test]
async fn nobody_is_used_before_the_first_check() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    let (_istiod, waypoint, client) = start(&mesh, checked(&mesh, &every(50, tcp(b"", b"")))).await;
    until("a check to fail", async || {
        (stat(&waypoint, "health_check.network_failure").await > 1).then_some(())
    })
    .await;
    let answer = client.get(to, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        waypoint
            .until_logged("UH")
            .await
            .contains("no_healthy_upstream")
    );
    let _app = App::http(backend, "web-1").await;
    until_healthy(&waypoint, 1).await;
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_pod_that_is_silent_is_out_when_its_time_is_over() {
    let mesh = Mesh::new();
    let (_to, backend) = mesh.bare_service(1, "web");
    let answers = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let says = answers.clone();
    App::tcp(backend, move |mut stream| {
        let says = says.clone();
        async move {
            let mut ping = [0; 4];
            while stream.read_exact(&mut ping).await.is_ok() {
                if says.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = stream.write_all(b"..PONG").await;
                }
            }
        }
    })
    .await;
    let check = HealthCheck {
        timeout: millis(300),
        ..every(50, tcp(b"PING", b"PONG"))
    };
    let (_istiod, waypoint, _client) = start(&mesh, checked(&mesh, &check)).await;
    until_healthy(&waypoint, 1).await;
    answers.store(false, std::sync::atomic::Ordering::Relaxed);
    until_healthy(&waypoint, 0).await;
    let failed = flags(&waypoint, backend).await.unwrap();
    assert!(failed.starts_with("/failed_active_hc"), "{failed}");
    assert!(stat(&waypoint, "health_check.network_failure").await >= 2);
    answers.store(true, std::sync::atomic::Ordering::Relaxed);
    until_healthy(&waypoint, 1).await;
}

#[tokio::test]
async fn a_service_of_grpc_is_asked_by_its_own_protocol() {
    let mesh = Mesh::new();
    let (_to, backend) = mesh.bare_service(1, "web");
    let health = GrpcHealth::start(backend).await;
    let (_istiod, waypoint, _client) = start(&mesh, checked(&mesh, &every(50, grpc("shop")))).await;
    until_healthy(&waypoint, 1).await;
    health.becomes(2);
    until_healthy(&waypoint, 0).await;
    assert_eq!(stat(&waypoint, "health_check.network_failure").await, 0);
    health.becomes(1);
    until_healthy(&waypoint, 1).await;
    let (target, body) = health.asked().remove(0);
    assert!(target.ends_with("/grpc.health.v1.Health/Check"), "{target}");
    assert_eq!(*body, *b"\0\0\0\0\x06\x0a\x04shop");
}

#[tokio::test]
async fn a_pod_behind_hbone_is_asked_through_the_tunnel() {
    let mesh = Mesh::new();
    let (to, app, ztunnel) = mesh.captured_service(1, "web").await;
    let check = every(HOUR, http("/ready"));
    let (_istiod, waypoint, client) = start(&mesh, checked(&mesh, &check)).await;
    until_healthy(&waypoint, 1).await;
    assert_eq!(app.last().target, "/ready");
    assert_eq!(ztunnel.connects().len(), 1);
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    assert_eq!(stat(&waypoint, "upstream_cx_total").await, 1);
}

#[tokio::test]
async fn checks_and_pods_say_how_pods_are_asked() {
    let mesh = Mesh::new();
    let _apps = pods(&mesh, 2).await;
    let to = mesh.service(1, "web");
    let mut other = mesh.backend(1);
    other.set_port(8081);
    let asked = App::http(other, "health").await;
    let mut check = every(HOUR, http("/healthz?full"));
    if let Some(HealthChecker::HttpHealthCheck(http)) = &mut check.health_checker {
        http.host = "health.test".to_owned();
        http.method = 7;
        http.request_headers_to_add = vec![HeaderValueOption {
            header: Some(HeaderValue {
                key: "x-who".to_owned(),
                value: "%PROTOCOL%".to_owned(),
                ..HeaderValue::default()
            }),
            ..HeaderValueOption::default()
        }];
        http.request_headers_to_remove = vec!["user-agent".to_owned()];
        http.codec_client_type = 1;
    }
    let mut resources = checked(&mesh, &check);
    endpoints(&mut resources, "web", |assignment| {
        let all = assignment
            .endpoints
            .iter_mut()
            .flat_map(|l| &mut l.lb_endpoints);
        for (config, endpoint) in [
            HealthCheckConfig {
                port_value: 8081,
                hostname: "pod-1.test".to_owned(),
                ..HealthCheckConfig::default()
            },
            HealthCheckConfig {
                disable_active_health_check: true,
                ..HealthCheckConfig::default()
            },
        ]
        .into_iter()
        .zip(all)
        {
            configure(endpoint, config);
        }
    });
    let (_istiod, waypoint, client) = start(&mesh, resources).await;
    until_healthy(&waypoint, 2).await;
    assert_eq!(stat(&waypoint, "health_check.attempt").await, 1);
    let seen = asked.last();
    assert_eq!(
        (seen.method.as_str(), seen.version),
        ("OPTIONS", http::Version::HTTP_2)
    );
    assert_eq!(seen.target, "http://pod-1.test/healthz?full");
    assert_eq!(
        (seen.header("x-who"), seen.header("user-agent")),
        ("HTTP/2".into(), String::new())
    );
    assert_eq!(answering(&client, to).await.len(), 2);
}

fn configure(endpoint: &mut LbEndpoint, config: HealthCheckConfig) {
    if let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &mut endpoint.host_identifier {
        endpoint.health_check_config = Some(config);
    }
}

#[tokio::test]
async fn a_connection_carries_many_checks_unless_each_is_to_have_its_own() {
    for reuses in [true, false] {
        for http2 in [false, true] {
            let mesh = Mesh::new();
            let (_, app) = mesh.http_service(1, "web").await;
            let mut check = every(20, http("/ready"));
            check.reuse_connection = Some(BoolValue { value: reuses });
            if let Some(HealthChecker::HttpHealthCheck(http)) = &mut check.health_checker {
                http.host = "health.test".to_owned();
                http.codec_client_type = i32::from(http2);
            }
            let (_istiod, _waypoint, _client) = start(&mesh, checked(&mesh, &check)).await;
            until("ten checks", async || (app.seen().len() > 10).then_some(())).await;
            let connections = app.connections();
            assert_eq!(connections == 1, reuses, "{connections} {http2}");
            assert_eq!(connections > 9, !reuses, "{connections} {http2}");
        }
    }
}

#[tokio::test]
async fn an_update_of_something_else_asks_nobody_anew() {
    let mesh = Mesh::new();
    let _apps = pods(&mesh, 3).await;
    let _to = mesh.service(1, "web");
    let check = every(HOUR, http("/ready"));
    let all = checked(&mesh, &check);
    let mut two = all.clone();
    endpoints(&mut two, "web", |assignment| {
        assignment
            .endpoints
            .iter_mut()
            .for_each(|l| l.lb_endpoints.truncate(2));
    });
    let (istiod, waypoint, _client) = start(&mesh, two.clone()).await;
    until_healthy(&waypoint, 2).await;
    clusters(&mut two, "web", |cluster| {
        cluster.connect_timeout = millis(1234)
    });
    istiod.discovery.set(two);
    istiod.discovery.until_answered().await;
    assert_eq!(stat(&waypoint, "membership_healthy").await, 2);
    istiod.discovery.set(all.clone());
    until_healthy(&waypoint, 3).await;
    assert_eq!(stat(&waypoint, "health_check.attempt").await, 3);
    // Without checks everybody is used, and nobody asked.
    let mut none = all;
    clusters(&mut none, "web", |cluster| cluster.health_checks.clear());
    istiod.discovery.set(none);
    istiod.discovery.until_answered().await;
    assert_eq!(stat(&waypoint, "health_check.attempt").await, 0);
    assert_eq!(stat(&waypoint, "membership_healthy").await, 3);
}

#[tokio::test]
async fn a_pod_that_nobody_lists_stays_until_it_fails_unless_that_is_ignored() {
    for ignored in [false, true] {
        let mesh = Mesh::new();
        let apps = pods(&mesh, 2).await;
        let to = mesh.service(1, "web");
        let mut all = checked(&mesh, &every(50, http("/ready")));
        clusters(&mut all, "web", |c| {
            c.ignore_health_on_host_removal = ignored
        });
        let mut one = all.clone();
        endpoints(&mut one, "web", |assignment| {
            for locality in &mut assignment.endpoints {
                let second = mesh.backend(2).ip().to_string();
                let lists = |e: &LbEndpoint| !format!("{e:?}").contains(&second);
                locality.lb_endpoints.retain(lists);
            }
        });
        let (istiod, waypoint, client) = start(&mesh, all.clone()).await;
        until_healthy(&waypoint, 2).await;
        istiod.discovery.set(one.clone());
        istiod.discovery.until_answered().await;
        let leaving = flags(&waypoint, mesh.backend(2)).await;
        if ignored {
            assert_eq!(leaving, None);
            continue;
        }
        assert_eq!(leaving.as_deref(), Some("/pending_dynamic_removal"));
        assert_eq!(answering(&client, to).await.len(), 2);
        // It is listed again, and then not.
        istiod.discovery.set(all);
        istiod.discovery.until_answered().await;
        let listed = flags(&waypoint, mesh.backend(2)).await;
        assert_eq!(listed.as_deref(), Some("healthy"));
        istiod.discovery.set(one);
        istiod.discovery.until_answered().await;
        apps[1].fail(Some(StatusCode::NOT_FOUND));
        until("the pod to be gone", async || {
            flags(&waypoint, mesh.backend(2))
                .await
                .is_none()
                .then_some(())
        })
        .await;
        assert_eq!(stat(&waypoint, "membership_total").await, 1);
        assert_eq!(answering(&client, to).await.len(), 1);
    }
}

#[tokio::test]
async fn an_outlier_that_passes_a_check_is_back_unless_that_is_not_wanted() {
    for comes_back in [true, false] {
        let mesh = Mesh::new();
        let apps = pods(&mesh, 2).await;
        let to = mesh.service(1, "web");
        let mut check = every(200, http("/ready"));
        // Its answers make it an outlier; for the checks they are good.
        if let Some(HealthChecker::HttpHealthCheck(http)) = &mut check.health_checker {
            http.expected_statuses = vec![envoy_types::pb::envoy::r#type::v3::Int64Range {
                start: 200,
                end: 600,
            }];
        }
        let mut resources = checked(&mesh, &check);
        clusters(&mut resources, "web", |cluster| {
            cluster.outlier_detection = Some(OutlierDetection {
                consecutive_5xx: Some(UInt32Value { value: 2 }),
                base_ejection_time: millis(HOUR),
                max_ejection_time: millis(HOUR),
                max_ejection_percent: Some(UInt32Value { value: 100 }),
                successful_active_health_check_uneject_host: Some(BoolValue { value: comes_back }),
                ..OutlierDetection::default()
            });
        });
        let (_istiod, waypoint, client) = start(&mesh, resources).await;
        until_healthy(&waypoint, 2).await;
        apps[1].fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
        let mut connection = client.http1(to).await;
        until("an ejection", async || {
            connection.send(get("/")).await;
            (stat(&waypoint, "ejections_enforced_total").await > 0).then_some(())
        })
        .await;
        apps[1].fail(None);
        if comes_back {
            until_healthy(&waypoint, 2).await;
            assert_eq!(stat(&waypoint, "ejections_active").await, 0);
        } else {
            let before = stat(&waypoint, "health_check.success").await;
            until("more checks", async || {
                (stat(&waypoint, "health_check.success").await > before + 3).then_some(())
            })
            .await;
            assert_eq!(stat(&waypoint, "membership_healthy").await, 1);
        }
    }
}
