//! Real Envoy beside, before and behind the waypoint. `make test-envoy` runs these; `WAYPOINT_ENVOY` is the binary.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::Method;
use waypoint_config::resource::Resource;
use waypoint_tests::circuit_breakers::{Limits, NONE, limited};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::ztunnel::{Ztunnel, request};
use waypoint_tests::{App, ControlPlane, Mesh, Seen};

use crate::same_requests::{ROUTES, requests};

pub(super) fn program() -> String {
    std::env::var("WAYPOINT_ENVOY").expect("WAYPOINT_ENVOY names Envoy's binary")
}

/// Envoy as the waypoint of this mesh.
pub(crate) async fn envoy_beside(mesh: &Mesh) -> (Envoy, SocketAddr) {
    envoy_with(mesh, &mesh.resources()).await
}

pub(crate) async fn envoy_with(mesh: &Mesh, resources: &[Resource]) -> (Envoy, SocketAddr) {
    Envoy::beside(mesh, resources).await
}

/// A raw HTTP/1.1 answer, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Raw {
    status: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Raw {
    fn of(text: &str) -> Raw {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .unwrap_or("")
            .split(' ')
            .nth(1)
            .unwrap_or("none")
            .to_owned();
        let mut headers = BTreeMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let name = name.to_ascii_lowercase();
            // What time it is and how long it took.
            if !["date", "x-envoy-upstream-service-time"].contains(&name.as_str()) {
                headers.insert(name, value.trim().to_owned());
            }
        }
        Raw {
            status,
            headers,
            body: body.to_owned(),
        }
    }
}

/// What the application saw, without what is random.
fn essence(seen: &[Seen]) -> Vec<String> {
    seen.iter()
        .map(|seen| {
            let mut headers: Vec<String> = seen
                .headers
                .iter()
                .filter(|(name, _)| *name != "x-request-id")
                .map(|(name, value)| {
                    format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
                })
                .collect();
            headers.sort();
            let body = String::from_utf8_lossy(&seen.body).into_owned();
            format!(
                "{} {} {:?} {headers:?} {body}",
                seen.method, seen.target, seen.version
            )
        })
        .collect()
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn the_same_requests_get_the_same_answers() {
    let mesh = Mesh::new();
    let (to, web) = mesh.http_service(1, "web").await;
    let (_, a) = mesh.http_service(2, "a").await;
    mesh.service(3, "empty");
    mesh.manifest("routes.yaml", ROUTES);
    let waypoint = mesh.start().await;
    let (_envoy, beside) = envoy_beside(&mesh).await;
    let certificate = mesh.certificate("other", "client");
    let ours = Ztunnel::connect(waypoint.address(), &certificate)
        .await
        .unwrap();
    let theirs = Ztunnel::connect(beside, &certificate).await.unwrap();

    let mut differences = Vec::new();
    for (text, allowed) in requests() {
        let bytes = text.replace('\n', "\r\n");
        let (answer, seen) = exchange(&ours, to, &bytes, [&web, &a]).await;
        let (expected, expected_seen) = exchange(&theirs, to, &bytes, [&web, &a]).await;
        let same = answer == expected && seen == expected_seen;
        if !same && allowed.is_none() {
            differences.push(format!(
                "{text:?}\n  waypoint {answer:?}\n  envoy    {expected:?}\n  waypoint sent {seen:?}\n  envoy    sent {expected_seen:?}\n"
            ));
        }
        if same && let Some(reason) = allowed {
            differences.push(format!(
                "{text:?} is listed as different and isn't: {reason}\n"
            ));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

async fn exchange(
    ztunnel: &Ztunnel,
    to: SocketAddr,
    bytes: &str,
    apps: [&App; 2],
) -> (Raw, Vec<String>) {
    apps.iter().for_each(|app| app.forget());
    let raw = Raw::of(&ztunnel.raw(to, bytes.as_bytes()).await);
    let seen: Vec<Seen> = apps.iter().flat_map(|app| app.seen()).collect();
    (raw, essence(&seen))
}

/// Four requests, each sent when the one before has got to its place: what they are answered.
async fn crowd(ztunnel: &Ztunnel, to: SocketAddr, app: &App) -> Vec<(u16, String, String)> {
    app.forget();
    let sent = (0..4).map(async |n| {
        tokio::time::sleep(std::time::Duration::from_millis(150 * n)).await;
        let slow = request(Method::GET, "/", &[("x-delay-ms", "900")]);
        let answer = ztunnel.request(to, slow).await;
        let overloaded = answer.header("x-envoy-overloaded");
        (answer.status.as_u16(), overloaded, answer.text())
    });
    futures_util::future::join_all(sent).await
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn the_same_limits_turn_the_same_requests_away() {
    let cases: [(&str, Limits); 9] = [
        ("http", [NONE, NONE, 2, NONE]),
        ("http", [1, 1, NONE, NONE]),
        ("http", [1, 1, 1, NONE]),
        ("http", [2, 1, 1, NONE]),
        ("http", [0, 1, NONE, NONE]),
        ("http", [NONE, 0, NONE, NONE]),
        ("http2", [NONE, NONE, 2, NONE]),
        ("http2", [1, 1, NONE, NONE]),
        ("http2", [NONE, NONE, 0, NONE]),
    ];
    for (port, limits) in cases {
        let mesh = Mesh::new();
        let (_, app) = mesh.http_service(1, "web").await;
        let described = format!("{{name: {port}, port: 80, targetPort: 8080}}");
        let to = mesh.service_with_port(1, "web", &described);
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(limited(&mesh, limits));
        let waypoint = mesh.start_under(&istiod).await;
        let (_envoy, beside) = envoy_with(&mesh, &limited(&mesh, limits)).await;
        let certificate = mesh.certificate("default", "client");
        let ours = Ztunnel::connect(waypoint.address(), &certificate)
            .await
            .unwrap();
        let theirs = Ztunnel::connect(beside, &certificate).await.unwrap();
        let answers = crowd(&ours, to, &app).await;
        let expected = crowd(&theirs, to, &app).await;
        assert_eq!(answers, expected, "{port} {limits:?}");
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn the_same_limits_allow_the_same_retries() {
    for retries in [0, 1, NONE] {
        let limits = [NONE, NONE, NONE, retries];
        let mesh = Mesh::new();
        // Nobody listens.
        let (to, _) = mesh.bare_service(1, "web");
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(limited(&mesh, limits));
        let waypoint = mesh.start_under(&istiod).await;
        let (_envoy, beside) = envoy_with(&mesh, &limited(&mesh, limits)).await;
        let certificate = mesh.certificate("default", "client");
        let mut answers = Vec::new();
        for address in [waypoint.address(), beside] {
            let ztunnel = Ztunnel::connect(address, &certificate).await.unwrap();
            let answer = ztunnel.get(to, "/").await;
            let overloaded = answer.header("x-envoy-overloaded");
            // Envoys differ in whether they tell the transport's reason.
            let text = answer.text();
            let told = text.split(", transport").next().map(str::to_owned);
            answers.push((answer.status, overloaded, told));
        }
        assert_eq!(answers[0], answers[1], "{retries}");
    }
}
