//! Settings of `connectionPool`: requests share upstream connections, and speak the protocol, as they do through Envoy.
//!
//! What is compared is what the application sees: how many connections, and the version of each request.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh, Ztunnel};

/// The port of a service that speaks HTTP/2.
const HTTP2: &str = "{name: http2, port: 80, targetPort: 8080, appProtocol: http2}";

/// How requests follow each other.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// One after the other, on one connection of the client's.
    InTurn(usize),
    /// One, and then so many at once, each in a tunnel of its own.
    AtOnce(usize),
    /// Two, with a pause between.
    WithPause(Duration),
    /// The first over HTTP/1.1, the second over HTTP/2.
    BothVersions,
}

const PAUSE: Duration = Duration::from_millis(1500);

const CASES: &[(&str, Asked)] = &[
    ("http: {}", Asked::InTurn(5)),
    ("http: {}", Asked::AtOnce(4)),
    ("http: {}", Asked::BothVersions),
    ("http: {maxRequestsPerConnection: 1}", Asked::InTurn(4)),
    ("http: {maxRequestsPerConnection: 2}", Asked::InTurn(5)),
    ("http: {h2UpgradePolicy: UPGRADE}", Asked::BothVersions),
    ("http: {h2UpgradePolicy: UPGRADE}", Asked::AtOnce(4)),
    (
        "http: {h2UpgradePolicy: UPGRADE, maxRequestsPerConnection: 2}",
        Asked::InTurn(5),
    ),
    ("http: {useClientProtocol: true}", Asked::BothVersions),
    ("http: {idleTimeout: 500ms}", Asked::WithPause(PAUSE)),
    ("http: {idleTimeout: 60s}", Asked::WithPause(PAUSE)),
    (
        "tcp: {maxConnectionDuration: 500ms}",
        Asked::WithPause(PAUSE),
    ),
    ("tcp: {maxConnections: 1}", Asked::AtOnce(3)),
    ("tcp: {maxConnections: 2}", Asked::AtOnce(4)),
    (
        "tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}",
        Asked::InTurn(3),
    ),
];

/// The same, of a service whose port speaks HTTP/2.
const HTTP2_CASES: &[(&str, Asked)] = &[
    ("http: {}", Asked::AtOnce(4)),
    ("http: {maxConcurrentStreams: 2}", Asked::AtOnce(5)),
    ("http: {maxConcurrentStreams: 1}", Asked::InTurn(3)),
    (
        "tcp: {maxConnections: 1}, http: {maxConcurrentStreams: 2}",
        Asked::AtOnce(5),
    ),
    (
        "http: {http2KeepAlive: {interval: 100ms, timeout: 5s}}",
        Asked::WithPause(PAUSE),
    ),
];

fn rule(settings: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{host: web, trafficPolicy: {{connectionPool: {{{settings}}}}}}}\n"
    )
}

/// Statuses, the application's new connections, and the versions of the requests that it saw.
async fn outcome(
    client: &Ztunnel,
    to: SocketAddr,
    app: &App,
    asked: Asked,
) -> (Vec<u16>, usize, Vec<String>) {
    app.forget();
    let before = app.connections();
    let slow = || request(Method::GET, "/", &[("x-delay-ms", "300")]);
    let at_once = || request(Method::GET, "/", &[]);
    let answers = match asked {
        Asked::InTurn(number) => {
            let mut connection = client.http1(to).await;
            let mut answers = Vec::new();
            for _ in 0..number {
                answers.push(connection.send(at_once()).await);
            }
            answers
        }
        Asked::AtOnce(number) => {
            // Before there is a connection the waypoint may make two (`docs/differences.md`).
            let first = client.request(to, at_once()).await;
            let all = join_all((0..number).map(|_| client.request(to, slow()))).await;
            [vec![first], all].concat()
        }
        Asked::WithPause(pause) => {
            let mut connection = client.http1(to).await;
            let first = connection.send(at_once()).await;
            tokio::time::sleep(pause).await;
            vec![first, connection.send(at_once()).await]
        }
        Asked::BothVersions => vec![
            client.http1(to).await.send(at_once()).await,
            client.http2(to).await.send(at_once()).await,
        ],
    };
    let statuses = answers
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    let versions = app
        .seen()
        .iter()
        .map(|seen| format!("{:?}", seen.version))
        .collect();
    (statuses, app.connections() - before, versions)
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn connections_are_shared_as_envoy_shares_them() {
    let mut differences = Vec::new();
    let http2 = HTTP2_CASES.iter().map(|case| (case, Some(HTTP2)));
    for ((settings, asked), port) in CASES.iter().map(|case| (case, None)).chain(http2) {
        let mesh = Mesh::new();
        let (to, app) = mesh.http_service(1, "web").await;
        if let Some(port) = port {
            mesh.service_with_port(1, "web", port);
        }
        mesh.manifest("rule.yaml", &rule(settings));
        let waypoint = mesh.start().await;
        let (_envoy, beside) = Envoy::beside(&mesh, &mesh.resources()).await;
        let certificate = mesh.certificate("default", "curl");
        let mut found = Vec::new();
        for address in [waypoint.address(), beside] {
            let client = Ztunnel::connect(address, &certificate).await.unwrap();
            found.push(outcome(&client, to, &app, *asked).await);
        }
        println!("{settings}, {asked:?}, {port:?}: {:?}", found[0]);
        if found[0] != found[1] {
            let (ours, theirs) = (&found[0], &found[1]);
            differences.push(format!(
                "{settings}, {asked:?}\n  waypoint {ours:?}\n  envoy    {theirs:?}"
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
