//! What a DestinationRule says of HTTP/2 connections: how many streams one carries, and how soon a silent peer is given up.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh};

const PORT: &str = "{name: http2, port: 80, targetPort: 8080}";
const DELAY: Duration = Duration::from_millis(300);
/// Of HTTP/2: nothing is said of anything.
const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

fn rule(mesh: &Mesh, settings: &str) {
    mesh.manifest(
        "rule.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: default}}\n\
             spec: {{host: web, trafficPolicy: {{connectionPool: {{{settings}}}}}}}\n"
        ),
    );
}

/// Five requests at once: the application's connections, and how long all took.
async fn five_at_once(settings: &str) -> (usize, Duration) {
    let mesh = Mesh::new();
    let (_, backend) = mesh.bare_service(1, "web");
    let to = mesh.service_with_port(1, "web", PORT);
    let app = App::http(backend, "web").await;
    rule(&mesh, settings);
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await, "");
    let begun = Instant::now();
    let delay = DELAY.as_millis().to_string();
    let asked = || request(Method::GET, "/", &[("x-delay-ms", &delay)]);
    let answers = join_all((0..5).map(|_| client.request(to, asked()))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    (app.connections(), begun.elapsed())
}

#[tokio::test]
async fn a_connection_carries_no_more_streams_than_a_rule_says() {
    let (connections, _) = five_at_once("http: {maxConcurrentStreams: 100}").await;
    assert!(connections <= 2, "{connections}");
    let (connections, took) = five_at_once("http: {maxConcurrentStreams: 2}").await;
    assert!((3..=4).contains(&connections), "{connections}");
    assert!(took >= DELAY, "{took:?}");
}

#[tokio::test]
async fn what_no_connection_has_room_for_waits_for_a_stream_to_end() {
    let settings = "tcp: {maxConnections: 1}, http: {maxConcurrentStreams: 2}";
    let (connections, took) = five_at_once(settings).await;
    assert_eq!(connections, 1);
    assert!(took >= 3 * DELAY, "{took:?}");
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_given_up() {
    let mesh = Mesh::new();
    let (_, backend) = mesh.bare_service(1, "web");
    let to = mesh.service_with_port(1, "web", PORT);
    let silent = TcpListener::bind(backend).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = silent.accept().await {
            tokio::spawn(async move {
                let _ = tcp.write_all(&EMPTY_SETTINGS).await;
                let mut nothing = [0; 1024];
                while tcp.read(&mut nothing).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    rule(
        &mesh,
        "http: {http2KeepAlive: {interval: 200ms, timeout: 300ms}}",
    );
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await, "");
    let begun = Instant::now();
    let answer = client.get(to, "/silent").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(begun.elapsed() < Duration::from_secs(20));
    let line = waypoint.until_logged("/silent").await;
    assert!(line.contains(" 503 UC "), "{line}");
}
