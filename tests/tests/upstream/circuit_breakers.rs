//! Circuit breakers of a DestinationRule: what is beyond a limit waits or is turned away at once, and what
//! was counted is given back, however it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::UInt32Value;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_config::resource::Resource;
use waypoint_tests::balancing::{clusters, pods};
use waypoint_tests::circuit_breakers::{Limits, NONE, limited};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{Answer, Http1, request};
use waypoint_tests::{App, ControlPlane, Mesh, Script, Then, Waypoint, Ztunnel};

const OVERFLOW: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: overflow";

/// So long a request takes at most to its place in the queue, which nobody can see from outside.
const QUEUED: Duration = Duration::from_secs(1);

async fn start(mesh: &Mesh, limits: Limits) -> (ControlPlane, Waypoint, Ztunnel) {
    let istiod = ControlPlane::start(mesh).await;
    istiod.discovery.set(limited(mesh, limits));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    (istiod, waypoint, client)
}

/// A request that is answered after so many milliseconds.
fn slow(path: &str, millis: u32) -> Request<Full<Bytes>> {
    request(Method::GET, path, &[("x-delay-ms", &millis.to_string())])
}

/// Waits until the application has seen a request to `path`.
async fn until_seen(app: &App, path: &str) {
    until(path, async || {
        let seen = app.seen().iter().any(|seen| seen.target.ends_with(path));
        seen.then_some(())
    })
    .await;
}

async fn assert_overflow(waypoint: &Waypoint, answer: &Answer, path: &str) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    assert_eq!(answer.text(), OVERFLOW, "{path}");
    assert_eq!(answer.header("x-envoy-overloaded"), "true", "{path}");
    let line = waypoint.until_logged(path).await;
    let told = " 503 UO upstream_reset_before_response_started{overflow} ";
    assert!(line.contains(told), "{line}");
}

#[tokio::test]
async fn requests_beyond_the_limit_are_turned_away_over_both_protocols() {
    for port in ["http", "http2"] {
        let mesh = Mesh::new();
        let (_, app) = mesh.http_service(1, "web").await;
        let port = format!("{{name: {port}, port: 80, targetPort: 8080}}");
        let to = mesh.service_with_port(1, "web", &port);
        let (_istiod, waypoint, client) = start(&mesh, [NONE, NONE, 2, NONE]).await;
        let (mut one, two) = (client.http1(to).await, client.http2(to).await);
        let beyond = async {
            until_seen(&app, "/one").await;
            until_seen(&app, "/two").await;
            client.get(to, "/beyond").await
        };
        let (first, second, beyond) = tokio::join!(
            one.send(slow("/one", 3000)),
            two.send(slow("/two", 3000)),
            beyond
        );
        assert_eq!(
            (first.status, second.status),
            (StatusCode::OK, StatusCode::OK)
        );
        assert_eq!(first.header("x-envoy-overloaded"), "");
        assert_overflow(&waypoint, &beyond, "/beyond").await;
        let labels = [("response_code", "503"), ("response_flags", "UO")];
        let name = "istio_requests_total";
        waypoint.until_metric(name, &labels, 1.0).await;
        assert_eq!(client.get(to, "/after").await.status, StatusCode::OK);
        assert_eq!(app.seen().len(), 3);
    }
}

#[tokio::test]
async fn requests_wait_for_a_connection_and_only_so_many() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (_istiod, waypoint, client) = start(&mesh, [1, 1, 1, NONE]).await;
    let waits = async {
        until_seen(&app, "/first").await;
        client.get(to, "/waits").await
    };
    let beyond = async {
        until_seen(&app, "/first").await;
        tokio::time::sleep(QUEUED).await;
        client.get(to, "/beyond").await
    };
    let mut connection = client.http1(to).await;
    let first = connection.send(slow("/first", 5000));
    let (first, waited, beyond) = tokio::join!(first, waits, beyond);
    assert_eq!(
        (first.status, waited.status),
        (StatusCode::OK, StatusCode::OK)
    );
    assert_overflow(&waypoint, &beyond, "/beyond").await;
    assert_eq!(app.connections(), 1);
    let clusters = http_get(waypoint.running.admin_addr, "/clusters").await.1;
    let limit =
        "inbound-vip|80|http|web.default.svc.cluster.local::default_priority::max_connections::1\n";
    assert!(clusters.contains(limit), "{clusters}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_served_in_turn_though_some_leave() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (_istiod, _waypoint, client) = start(&mesh, [3, NONE, 3, NONE]).await;
    let client = Arc::new(client);
    let crowd = (0..60).map(|n| {
        let client = client.clone();
        tokio::spawn(async move {
            if n % 3 == 0 {
                // Leaves while it waits, or while it is being answered.
                let leaving = client.request(to, slow("/leaves", 20));
                let patience = Duration::from_millis(fastrand::u64(1..300));
                let _ = tokio::time::timeout(patience, leaving).await;
                return StatusCode::OK;
            }
            client.request(to, slow("/stays", 20)).await.status
        })
    });
    for served in futures_util::future::join_all(crowd).await {
        assert_eq!(served.unwrap(), StatusCode::OK);
    }
    // Three at a time, and a new one for each that broke off.
    assert!(app.connections() <= 3 + 20, "{}", app.connections());
    let seen = app.seen();
    assert_eq!(
        seen.iter().filter(|seen| seen.target == "/stays").count(),
        40
    );
}

#[tokio::test]
async fn an_http2_connection_is_shared_where_there_may_be_one_only() {
    let mesh = Mesh::new();
    let (_, app) = mesh.http_service(1, "web").await;
    let to = mesh.service_with_port(1, "web", "{name: http2, port: 80, targetPort: 8080}");
    let (_istiod, _waypoint, client) = start(&mesh, [1, NONE, NONE, NONE]).await;
    let connection = client.http2(to).await;
    let many = (0..150).map(|_| connection.send(slow("/many", 100)));
    for answer in futures_util::future::join_all(many).await {
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(app.connections(), 1);
}

/// Answers by path; all but `/ok` end badly, or not at all.
fn badly(head: &str) -> (Vec<u8>, Then) {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (text, then) = match path {
        "/closed" => ("", Then::Close),
        "/reset" => ("", Then::Reset),
        "/noise" => ("220 mail ready\r\n\r\n", Then::Wait),
        "/broken" => (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
            Then::Reset,
        ),
        "/half" => (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
            Then::Wait,
        ),
        "/last" => (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            Then::Close,
        ),
        "/silent" | "/late" => ("", Then::Wait),
        _ => ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Then::Wait),
    };
    (text.as_bytes().to_vec(), then)
}

async fn until_head(script: &Script, path: &str) {
    until(path, async || {
        let heads = script.heads();
        heads.iter().any(|head| head.contains(path)).then_some(())
    })
    .await;
}

/// Nothing is counted any more: the one request, on the one connection, is to be had.
async fn assert_all_given_back(client: &Ztunnel, to: SocketAddr, after: &str) {
    until(after, async || {
        let answer = client
            .raw(to, b"GET /ok HTTP/1.1\r\nhost: web\r\n\r\n")
            .await;
        answer.starts_with("HTTP/1.1 200 ").then_some(())
    })
    .await;
}

#[tokio::test]
async fn everything_is_given_back_however_a_request_ends() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    let script = Script::start(backend, badly).await;
    mesh.manifest(
        "route.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: default}\n\
         spec:\n  parentRefs: [{group: '', kind: Service, name: web, port: 80}]\n  rules:\n\
         \x20 - matches: [{path: {type: Exact, value: /late}}]\n    timeouts: {request: 200ms}\n    backendRefs: [{name: web, port: 80}]\n\
         \x20 - backendRefs: [{name: web, port: 80}]\n",
    );
    let (_istiod, _waypoint, client) = start(&mesh, [1, 1, 1, 1]).await;
    for path in [
        "/ok", "/last", "/closed", "/reset", "/noise", "/broken", "/late",
    ] {
        let bytes = format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n");
        client.raw(to, bytes.as_bytes()).await;
        until_head(&script, path).await;
        assert_all_given_back(&client, to, path).await;
    }
    // The client leaves: before the answer, within it, and while it waits for its turn.
    for path in ["/silent", "/half"] {
        let mut leaving = client.tunnel(to).await;
        let bytes = format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n");
        leaving.write_all(bytes.as_bytes()).await.unwrap();
        until_head(&script, path).await;
        let mut waiting = client.tunnel(to).await;
        waiting
            .write_all(b"GET /waits HTTP/1.1\r\nhost: web\r\n\r\n")
            .await
            .unwrap();
        tokio::time::sleep(QUEUED).await;
        let full = client
            .raw(to, b"GET /full HTTP/1.1\r\nhost: web\r\n\r\n")
            .await;
        assert!(full.contains("overflow"), "{full}");
        drop(waiting);
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(leaving);
        assert_all_given_back(&client, to, path).await;
    }
    let heads = script.heads();
    assert!(
        !heads
            .iter()
            .any(|h| h.contains("/waits") || h.contains("/full"))
    );
}

#[tokio::test]
async fn an_upgraded_exchange_counts_until_it_has_ended() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (_istiod, _waypoint, client) = start(&mesh, [1, 1, 1, NONE]).await;
    let mut socket = client.tunnel(to).await;
    socket
        .write_all(
            b"GET /ws HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
    let mut answer = [0; 12];
    within("the upgrade", socket.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    let mut waiting = client.tunnel(to).await;
    waiting
        .write_all(b"GET /waits HTTP/1.1\r\nhost: web\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(QUEUED).await;
    assert!(client.get(to, "/full").await.text().contains("overflow"));
    drop(socket);
    within("its turn", waiting.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn tcp_streams_beyond_the_limit_are_closed() {
    async fn echo(mut tcp: TcpStream) {
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    }
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_tcp_service(1, "db");
    App::tcp(backend, echo).await;
    let (_istiod, waypoint, client) = start(&mesh, [1, 1, NONE, NONE]).await;
    let mut first = client.tunnel(to).await;
    first.write_all(b"a").await.unwrap();
    let mut byte = [0];
    within("the echo", first.read_exact(&mut byte))
        .await
        .unwrap();
    assert_eq!(client.raw(to, b"b").await, "");
    waypoint.until_logged(" UO ").await;
    drop(first);
    until("a place", async || {
        (client.raw(to, b"c").await == "c").then_some(())
    })
    .await;
}

#[tokio::test]
async fn retries_beyond_the_limit_are_not_made() {
    for (limit, flags, body) in [
        (0, "UF,UO", ". reset reason: "),
        (1, "URX,UF", ". retried and the latest reset reason: "),
    ] {
        let mesh = Mesh::new();
        let (to, _) = mesh.bare_service(1, "web");
        let (_istiod, waypoint, client) = start(&mesh, [NONE, NONE, NONE, limit]).await;
        // Nobody listens. More often than there are retries: they are given back.
        for n in 1..=3 {
            let path = format!("/{limit}/{n}");
            let answer = client.get(to, &path).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(answer.text().contains(body), "{}", answer.text());
            assert_eq!(answer.header("x-envoy-overloaded"), "");
            let line = waypoint.until_logged(&path).await;
            assert!(line.contains(&format!(" 503 {flags} ")), "{line}");
        }
    }
}

#[tokio::test]
async fn limits_change_under_requests_and_go() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (istiod, waypoint, client) = start(&mesh, [NONE, NONE, 1, NONE]).await;
    let mut connection = client.http1(to).await;
    let first = connection.send(slow("/first", 2500));
    let meanwhile = async {
        until_seen(&app, "/first").await;
        assert_overflow(&waypoint, &client.get(to, "/over").await, "/over").await;
        istiod.discovery.set(limited(&mesh, [NONE, NONE, 2, NONE]));
        istiod.discovery.until_answered().await;
        // The first is counted still.
        assert_eq!(client.get(to, "/two").await.status, StatusCode::OK);
        let mut other = client.http1(to).await;
        let second = other.send(slow("/second", 300));
        let third = async {
            until_seen(&app, "/second").await;
            client.get(to, "/three").await
        };
        let (second, third) = tokio::join!(second, third);
        assert_eq!(second.status, StatusCode::OK);
        assert_overflow(&waypoint, &third, "/three").await;
        istiod.discovery.set(mesh.resources());
        istiod.discovery.until_answered().await;
        assert_eq!(client.get(to, "/four").await.status, StatusCode::OK);
    };
    let (first, ()) = tokio::join!(first, meanwhile);
    assert_eq!(first.status, StatusCode::OK);
    // What went back when nothing was limited is not missing from the count.
    istiod.discovery.set(limited(&mesh, [NONE, NONE, 1, NONE]));
    istiod.discovery.until_answered().await;
    assert_eq!(client.get(to, "/five").await.status, StatusCode::OK);
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
}

/// The mesh's resources, where retries have a budget.
fn budgeted(mesh: &Mesh, percent: f64, least: u32) -> Vec<Resource> {
    let mut resources = mesh.resources();
    clusters(&mut resources, "web", |cluster| {
        cluster.lb_policy = LbPolicy::RoundRobin as i32;
        let breakers = cluster.circuit_breakers.as_mut().unwrap();
        breakers.thresholds[0].retry_budget = Some(RetryBudget {
            budget_percent: Some(Percent { value: percent }),
            min_retry_concurrency: Some(UInt32Value { value: least }),
            budget_interval: None,
        });
    });
    resources
}

#[tokio::test]
async fn retries_are_a_part_of_what_is_under_way() {
    let mesh = Mesh::new();
    let app = pods(&mesh, 1).await.remove(0);
    // Nobody listens in the other.
    mesh.describe_pod(2, "web-2", "web", false);
    let to = mesh.service(1, "web");
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(budgeted(&mesh, 50.0, 0));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    // Alone, half of nothing is nothing.
    let mut failed = 0;
    for n in 0..6 {
        let path = format!("/alone/{n}");
        if client.get(to, &path).await.status != StatusCode::OK {
            failed += 1;
            let line = waypoint.until_logged(&path).await;
            assert!(line.contains(" 503 UF,UO "), "{line}");
        }
    }
    assert!(failed > 0);

    // Beside two others there may be one.
    let (mut one, mut two) = (client.http1(to).await, client.http1(to).await);
    app.forget();
    let beside = async {
        for path in ["/one", "/two"] {
            until_seen(&app, path).await;
        }
        for n in 0..6 {
            let path = format!("/beside/{n}");
            assert_eq!(client.get(to, &path).await.status, StatusCode::OK);
        }
    };
    let long = async |connection: &mut Http1, path: &str| loop {
        // One that meets the other pod fails: there is no budget for it.
        if connection.send(slow(path, 3000)).await.status == StatusCode::OK {
            break;
        }
    };
    tokio::join!(long(&mut one, "/one"), long(&mut two, "/two"), beside);

    // So many there may always be.
    istiod.discovery.set(budgeted(&mesh, 0.0, 1));
    istiod.discovery.until_answered().await;
    for n in 0..6 {
        let path = format!("/few/{n}");
        assert_eq!(client.get(to, &path).await.status, StatusCode::OK);
    }
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
}
