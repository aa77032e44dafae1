//! Outlier detection: a pod whose answers are bad, or that can't be reached, gets nothing for a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, OutlierDetection};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Duration as DurationProto, UInt32Value};
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_config::resource::Resource;
use waypoint_tests::balancing::{clusters, pods, routes};
use waypoint_tests::mirrors::mirrored;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{Ztunnel, get, request};
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint};

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn millis(millis: u32) -> Option<DurationProto> {
    Some(DurationProto {
        seconds: i64::from(millis / 1000),
        nanos: (millis % 1000 * 1_000_000) as i32,
    })
}

/// Three in a row, looked at five times a second; all may be out, for a long time.
fn rules() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: number(3),
        interval: millis(200),
        base_ejection_time: millis(3_600_000),
        max_ejection_time: millis(3_600_000),
        max_ejection_percent: number(100),
        ..OutlierDetection::default()
    }
}

/// The mesh's resources, where `web` takes turns and is judged by these rules.
fn judged(mesh: &Mesh, rules: &OutlierDetection) -> Vec<Resource> {
    let mut resources = mesh.resources();
    clusters(&mut resources, "web", |cluster| {
        judge(cluster, rules);
    });
    resources
}

fn judge(cluster: &mut Cluster, rules: &OutlierDetection) {
    cluster.lb_policy = LbPolicy::RoundRobin as i32;
    cluster.outlier_detection = Some(rules.clone());
}

async fn start(mesh: &Mesh, resources: Vec<Resource>) -> (ControlPlane, Waypoint, Ztunnel) {
    let istiod = ControlPlane::start(mesh).await;
    istiod.discovery.set(resources);
    let (waypoint, client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    (istiod, waypoint, client)
}

/// Which pods answer 30 requests, and with what.
async fn answers(client: &Ztunnel, to: SocketAddr) -> BTreeMap<(String, u16), u32> {
    let mut connection = client.http1(to).await;
    let mut answers = BTreeMap::new();
    for _ in 0..30 {
        let answer = connection.send(get("/")).await;
        let key = (answer.header("x-app"), answer.status.as_u16());
        *answers.entry(key).or_insert(0) += 1;
    }
    answers
}

fn pods_in(answers: &BTreeMap<(String, u16), u32>) -> Vec<&str> {
    answers.keys().map(|(pod, _)| pod.as_str()).collect()
}

async fn stat(waypoint: &Waypoint, service: &str, name: &str) -> u64 {
    let filter = format!("/stats?filter={service}.default.*outlier_detection.{name}$");
    let (_, stats) = http_get(waypoint.running.admin_addr, &filter).await;
    let line = stats.trim().rsplit_once(": ");
    line.map_or(0, |(_, value)| value.parse().unwrap())
}

async fn until_out(waypoint: &Waypoint, service: &str, count: u64) {
    until(&format!("{count} pods of {service} out"), async || {
        (stat(waypoint, service, "ejections_active").await == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_fails_is_out_for_a_while_and_comes_back() {
    let mesh = Mesh::new();
    let apps = pods(&mesh, 3).await;
    let to = mesh.service(1, "web");
    let rules = OutlierDetection {
        base_ejection_time: millis(1000),
        ..rules()
    };
    let (_istiod, waypoint, client) = start(&mesh, judged(&mesh, &rules)).await;
    apps[1].fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    let began = Instant::now();
    let mut failed = 0;
    until("the pod to be out", async || {
        failed += answers(&client, to)
            .await
            .keys()
            .filter(|(_, s)| *s == 503)
            .count();
        (stat(&waypoint, "web", "ejections_active").await == 1).then_some(())
    })
    .await;
    assert!(failed > 0);
    let (_, text) = http_get(waypoint.running.admin_addr, "/clusters").await;
    let flag = format!("{}::health_flags::/failed_outlier_check\n", mesh.backend(2));
    assert!(text.contains(&flag), "{text}");
    let (_, json) = http_get(waypoint.running.admin_addr, "/clusters?format=json").await;
    assert!(json.contains("\"failed_outlier_check\": true"), "{json}");
    assert!(stat(&waypoint, "web", "ejections_detected_consecutive_5xx").await > 0);
    assert!(stat(&waypoint, "web", "ejections_enforced_total").await > 0);
    apps[1].fail(None);
    until("the pod to be back", async || {
        let answers = answers(&client, to).await;
        assert!(answers.keys().all(|(_, status)| *status == 200));
        pods_in(&answers).contains(&"web-2").then_some(())
    })
    .await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    until_out(&waypoint, "web", 0).await;
}

#[tokio::test]
async fn those_that_are_out_get_nothing_and_only_so_many_are() {
    let mesh = Mesh::new();
    let apps = pods(&mesh, 3).await;
    let to = mesh.service(1, "web");
    let rules = OutlierDetection {
        max_ejection_percent: number(50),
        ..rules()
    };
    let (istiod, waypoint, client) = start(&mesh, judged(&mesh, &rules)).await;
    for failing in &apps[..2] {
        failing.fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
    }
    until("too many to be out", async || {
        answers(&client, to).await;
        (stat(&waypoint, "web", "ejections_overflow").await > 0).then_some(())
    })
    .await;
    until_out(&waypoint, "web", 1).await;
    let found = answers(&client, to).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.values().all(|count| *count == 15), "{found:?}");

    // Endpoints that come again stay as they are; without rules all are back.
    let mut resources = judged(&mesh, &rules);
    clusters(&mut resources, "web", |cluster| {
        cluster.connect_timeout = millis(3000);
    });
    istiod.discovery.set(resources);
    istiod.discovery.until_answered().await;
    assert_eq!(answers(&client, to).await.len(), 2);
    istiod.discovery.set(mesh.resources());
    istiod.discovery.until_answered().await;
    let found = answers(&client, to).await;
    assert_eq!(found.len(), 3, "{found:?}");
}

#[tokio::test]
async fn nobody_is_left_or_all_are_used_as_the_panic_threshold_says() {
    for (threshold, status) in [(0.0, 503), (50.0, 500)] {
        let mesh = Mesh::new();
        let apps = pods(&mesh, 3).await;
        let to = mesh.service(1, "web");
        let mut resources = judged(&mesh, &rules());
        clusters(&mut resources, "web", |cluster| {
            let config = cluster.common_lb_config.get_or_insert_default();
            config.healthy_panic_threshold = Some(Percent { value: threshold });
        });
        let (_istiod, waypoint, client) = start(&mesh, resources).await;
        for app in &apps {
            app.fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
        }
        until("everybody to be out", async || {
            answers(&client, to).await;
            (stat(&waypoint, "web", "ejections_active").await == 3).then_some(())
        })
        .await;
        let found = answers(&client, to).await;
        let all = |(_, found): &(String, u16)| *found == status;
        assert!(found.keys().all(all), "{found:?}");
        let pods = if threshold > 0.0 { 3 } else { 1 };
        assert_eq!(found.len(), pods, "{found:?}");
    }
}

#[tokio::test]
async fn a_pod_that_cannot_be_reached_is_out_for_streams_of_bytes() {
    for split in [false, true] {
        let mesh = Mesh::new();
        for n in 1..=3 {
            mesh.describe_pod(n, &format!("web-{n}"), "web", false);
        }
        for n in [1, 3] {
            App::tcp(mesh.backend(n), |mut tcp| async move {
                let _ = tcp.write_all(b"here").await;
                let _ = tcp.shutdown().await;
            })
            .await;
        }
        let to = mesh.service_with_port(1, "web", "{name: tcp, port: 80, targetPort: 8080}");
        let rules = OutlierDetection {
            split_external_local_origin_errors: split,
            consecutive_local_origin_failure: number(2),
            ..rules()
        };
        let (_istiod, waypoint, client) = start(&mesh, judged(&mesh, &rules)).await;
        let stream = async || {
            let mut said = Vec::new();
            let mut stream = client.tunnel(to).await;
            let _ = within("the pod's word", stream.read_to_end(&mut said)).await;
            said
        };
        let mut lost = 0;
        until("the pod to be out", async || {
            for _ in 0..6 {
                lost += usize::from(stream().await.is_empty());
            }
            (stat(&waypoint, "web", "ejections_active").await == 1).then_some(())
        })
        .await;
        assert!(lost >= 2);
        for _ in 0..12 {
            assert_eq!(stream().await, b"here");
        }
        let sign = match split {
            false => "ejections_enforced_consecutive_5xx",
            true => "ejections_enforced_consecutive_local_origin_failure",
        };
        assert_eq!(stat(&waypoint, "web", sign).await, 1);
    }
}

#[tokio::test]
async fn a_pod_that_never_answers_is_out() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "web-1", "web", false);
    mesh.describe_pod(2, "web-2", "web", false);
    let _app = App::http(mesh.backend(1), "web-1").await;
    App::tcp(mesh.backend(2), |mut tcp| async move {
        let mut sink = Vec::new();
        let _ = tcp.read_to_end(&mut sink).await;
    })
    .await;
    let to = mesh.service(1, "web");
    let rules = OutlierDetection {
        consecutive_gateway_failure: number(2),
        enforcing_consecutive_gateway_failure: number(100),
        ..rules()
    };
    let mut resources = judged(&mesh, &rules);
    routes(&mut resources, "web", |route| {
        route.timeout = millis(100);
        route.retry_policy = None;
    });
    let (_istiod, waypoint, client) = start(&mesh, resources).await;
    let mut late = 0;
    until("the pod to be out", async || {
        let answer = client.get(to, "/").await;
        late += usize::from(answer.status == StatusCode::GATEWAY_TIMEOUT);
        (stat(&waypoint, "web", "ejections_active").await == 1).then_some(())
    })
    .await;
    assert!(late >= 2);
    assert_eq!(pods_in(&answers(&client, to).await), ["web-1"]);
}

#[tokio::test]
async fn a_client_that_leaves_is_not_held_against_the_pod() {
    let mesh = Mesh::new();
    let _apps = pods(&mesh, 1).await;
    let to = mesh.service(1, "web");
    let (_istiod, waypoint, client) = start(&mesh, judged(&mesh, &rules())).await;
    for _ in 0..8 {
        let slow = request(Method::GET, "/", &[("x-delay-ms", "5000")]);
        let leaving = client.request(to, slow);
        assert!(
            tokio::time::timeout(Duration::from_millis(50), leaving)
                .await
                .is_err()
        );
    }
    // A request whose body breaks off.
    for _ in 0..8 {
        let mut stream = client.tunnel(to).await;
        let begun = b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\nabc";
        stream.write_all(begun).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(stream);
    }
    assert_eq!(answers(&client, to).await.len(), 1);
    for sign in ["consecutive_5xx", "consecutive_gateway_failure"] {
        let name = format!("ejections_detected_{sign}");
        assert_eq!(stat(&waypoint, "web", &name).await, 0, "{sign}");
    }
}

#[tokio::test]
async fn mirrors_and_grpc_are_judged_as_well() {
    let mesh = Mesh::new();
    let (to, _web) = mesh.http_service(1, "web").await;
    let (_, shadow) = mesh.http_service(2, "shadow").await;
    mirrored(&mesh, "");
    let mut resources = mesh.resources();
    for service in ["web", "shadow"] {
        clusters(&mut resources, service, |cluster| judge(cluster, &rules()));
    }
    let (_istiod, waypoint, client) = start(&mesh, resources).await;
    shadow.fail(Some(StatusCode::BAD_GATEWAY));
    until("the shadow to be out", async || {
        assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
        (stat(&waypoint, "shadow", "ejections_active").await == 1).then_some(())
    })
    .await;
    assert_eq!(stat(&waypoint, "web", "ejections_active").await, 0);

    let headers = [
        ("content-type", "application/grpc"),
        ("x-answer-header", "grpc-status=14"),
    ];
    until("the service to be out", async || {
        client
            .request(to, request(Method::POST, "/a.B/C", &headers))
            .await;
        (stat(&waypoint, "web", "ejections_active").await == 1).then_some(())
    })
    .await;
}
