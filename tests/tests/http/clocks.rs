//! Time limits: when their clocks start, what they span, and what ends them. The right lines are real Envoy's
//! (`make test-envoy` plays the same exchanges with it).

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions as CommonOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::google::protobuf::{Any, Duration as DurationProto, UInt32Value};
use http::{Method, StatusCode};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::circuit_breakers::{NONE, limited};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{Http1, get, request};
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, clocks, keepalives, late_heads, pending};

#[tokio::test]
async fn a_routes_limits_count_from_the_requests_end_to_the_answers() {
    for http2 in [false, true] {
        let mesh = Mesh::new();
        let (to, attempts) = clocks::service(&mesh, http2).await;
        let waypoint = mesh.start().await;
        assert_eq!(waypoint.problems().await.trim(), "");
        let client = mesh.client(&waypoint, "default", "curl").await;
        clocks::play_all(&client, to, || waypoint.log()).await;
        clocks::assert_told(&attempts);
    }
}

#[tokio::test]
async fn an_attempt_may_be_idle_for_so_long() {
    let mesh = Mesh::new();
    let (to, _attempts) = clocks::service(&mesh, false).await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(clocks::idle(&mesh));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    clocks::play_idle(&client, to, || waypoint.log()).await;
}

/// The mesh's resources, where connections to services live as these options say.
fn living(mesh: &Mesh, options: &CommonOptions) -> Vec<Resource> {
    const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut resources = mesh.resources();
    for resource in &mut resources {
        if resource.kind == ResourceType::Cluster && resource.name.starts_with("inbound-vip|") {
            let mut cluster = Cluster::decode(resource.body.clone()).unwrap();
            let any = cluster
                .typed_extension_protocol_options
                .entry(NAME.to_owned())
                .or_insert_with(|| Any {
                    type_url: format!("type.googleapis.com/{NAME}"),
                    value: Vec::new(),
                });
            let mut all = HttpProtocolOptions::decode(&*any.value).unwrap();
            all.common_http_protocol_options = Some(*options);
            any.value = all.encode_to_vec();
            resource.body = cluster.encode_to_vec().into();
        }
    }
    resources
}

/// A waypoint with these options before an application that is spoken to in this version.
async fn scene(port: &str, options: &CommonOptions) -> Scene {
    let mesh = Mesh::new();
    let (_, app) = mesh.http_service(1, "web").await;
    let port = format!("{{name: {port}, port: 80, targetPort: 8080}}");
    let to = mesh.service_with_port(1, "web", &port);
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(living(&mesh, options));
    let waypoint = mesh.start_under(&istiod).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let client = client.http1(to).await;
    Scene {
        _mesh: mesh,
        _istiod: istiod,
        _waypoint: waypoint,
        app,
        client,
    }
}

struct Scene {
    _mesh: Mesh,
    _istiod: ControlPlane,
    _waypoint: Waypoint,
    app: App,
    client: Http1,
}

impl Scene {
    async fn ask(&mut self) {
        assert_eq!(self.client.send(get("/")).await.status, StatusCode::OK);
    }
}

fn proto(millis: u64) -> Option<DurationProto> {
    Some(DurationProto {
        seconds: (millis / 1000) as i64,
        nanos: (millis % 1000 * 1_000_000) as i32,
    })
}

#[tokio::test]
async fn an_upstream_connection_is_idle_from_its_last_request_on() {
    let options = CommonOptions {
        idle_timeout: proto(3000),
        ..CommonOptions::default()
    };
    for port in ["http", "http2"] {
        let mut scene = scene(port, &options).await;
        // Longer than the limit all in all, never idle for that long.
        for _ in 0..5 {
            scene.ask().await;
            tokio::time::sleep(Duration::from_millis(800)).await;
        }
        assert_eq!(scene.app.connections(), 1, "{port}");
        tokio::time::sleep(Duration::from_millis(3500)).await;
        scene.ask().await;
        assert_eq!(scene.app.connections(), 2, "{port}");
    }
}

#[tokio::test]
async fn an_upstream_connection_that_is_too_old_ends_with_what_it_carries() {
    let options = CommonOptions {
        max_connection_duration: proto(1000),
        ..CommonOptions::default()
    };
    for port in ["http", "http2"] {
        let mut scene = scene(port, &options).await;
        let slow = request(Method::GET, "/", &[("x-delay-ms", "2000")]);
        let answer = scene.client.send(slow).await;
        assert_eq!(answer.status, StatusCode::OK, "{port}");
        scene.ask().await;
        assert_eq!(scene.app.connections(), 2, "{port}");
    }
}

#[tokio::test]
async fn an_upstream_connection_carries_so_many_requests() {
    let options = CommonOptions {
        max_requests_per_connection: Some(UInt32Value { value: 3 }),
        ..CommonOptions::default()
    };
    for port in ["http", "http2"] {
        let mut scene = scene(port, &options).await;
        for _ in 0..9 {
            scene.ask().await;
        }
        assert_eq!(scene.app.connections(), 3, "{port}");
    }
}

/// Milliseconds, where they are asked for.
const TIMES: &str = "%REQ(:PATH)% sent=%REQUEST_TX_DURATION% begun=%COMMON_DURATION(DS_RX_BEG:US_TX_BEG)% \
    answered=%COMMON_DURATION(US_TX_END:US_RX_BEG)% body=%COMMON_DURATION(US_RX_BEG:US_RX_BODY_BEG)% \
    connecting=%COMMON_DURATION(US_CX_BEG:US_CX_END)% pool=%UPSTREAM_CONNECTION_POOL_READY_DURATION% \
    route=%ROUTE_RESOLUTION_TIME_US% ids=%UPSTREAM_CONNECTION_IDS_ATTEMPTED%\n";

/// The value behind a name in a line of [`TIMES`].
fn noted<'a>(line: &'a str, name: &str) -> &'a str {
    let words = line.split([' ', '\n']);
    let mut found = words.filter_map(|word| word.split_once('='));
    found.find(|(found, _)| *found == name).unwrap().1
}

fn millis(line: &str, name: &str) -> u64 {
    noted(line, name)
        .parse()
        .unwrap_or_else(|_| panic!("{name} in {line}"))
}

#[tokio::test]
async fn upstream_times_are_noted_where_a_format_asks() {
    for http2 in [false, true] {
        let mesh = Mesh::new();
        mesh.access_log_format(TIMES);
        let (to, attempts) = clocks::service(&mesh, http2).await;
        let waypoint = mesh.start().await;
        assert_eq!(waypoint.problems().await.trim(), "");
        let client = mesh.client(&waypoint, "default", "curl").await;
        // A slow request whose answer is slow to come.
        let mut stream = client.tunnel(to).await;
        let head = "POST /long/times HTTP/1.1\r\nhost: web\r\nx-early: 1\r\nx-wait: 1\r\n\
            transfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        until("the head at the application", async || {
            (attempts.header("/long/times", "host").len() == 1).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        let line = waypoint.until_logged("/long/times").await;
        let of = |name| millis(&line, name);
        assert!(of("sent") >= of("begun") + 300, "{line}");
        assert!(of("answered") + of("sent") >= of("begun") + 1000, "{line}");
        assert!(
            of("connecting") <= of("pool") && of("pool") <= of("begun"),
            "{line}"
        );
        assert_eq!(noted(&line, "ids").split(',').count(), 1, "{line}");
        let (_, _) = (of("body"), of("route"));
        // The times are the last attempt's.
        let again = request(
            Method::GET,
            "/long/again",
            &[("x-fail", "1"), ("x-wait", "1")],
        );
        client.http1(to).await.send(again).await;
        let line = waypoint.until_logged("/long/again").await;
        let of = |name| millis(&line, name);
        assert!(of("begun") >= 1000 && of("answered") >= 1000, "{line}");
        assert_eq!(noted(&line, "ids").split(',').count(), 2, "{line}");
    }
}

#[tokio::test]
async fn a_head_has_its_time_from_its_first_byte() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(late_heads::resources(&mesh));
    let waypoint = mesh.start_under(&istiod).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    late_heads::play_all(&client, to, || waypoint.log()).await;
}

#[tokio::test]
async fn a_request_line_that_is_not_whole_has_no_more_time() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(late_heads::resources(&mesh));
    let waypoint = mesh.start_under(&istiod).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let mut stream = client.tunnel(to).await;
    stream.write_all(b"G").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\nrequest header timeout"),
        "{answer}"
    );
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn requests_that_wait_for_a_connection_have_their_time() {
    let mesh = Mesh::new();
    let (to, attempts) = clocks::service(&mesh, false).await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(limited(&mesh, [1, NONE, NONE, NONE]));
    let waypoint = mesh.start_under(&istiod).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    pending::play_all(&client, to, &attempts, || waypoint.log()).await;
}

#[tokio::test]
async fn a_silent_http2_peer_that_answers_a_ping_stays() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(keepalives::resources(&mesh));
    let waypoint = mesh.start_under(&istiod).await;
    let certificate = mesh.certificate("default", "curl");
    keepalives::play_all(waypoint.address(), to, &certificate).await;
}
