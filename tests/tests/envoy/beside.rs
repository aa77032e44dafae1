//! Real Envoy beside, before and behind the waypoint. `make test-envoy` runs these; `WAYPOINT_ENVOY` is the binary.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http::Method;
use waypoint_config::resource::Resource;
use waypoint_tests::circuit_breakers::{Limits, NONE, limited};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::ztunnel::{Ztunnel, request};
use waypoint_tests::{App, ControlPlane, Mesh, Seen};
use waypoint_tests::{broken_answers, clocks, keepalives, late_heads, pending};

pub(super) fn program() -> String {
    std::env::var("WAYPOINT_ENVOY").expect("WAYPOINT_ENVOY names Envoy's binary")
}

/// Envoy as the waypoint of this mesh.
async fn envoy_beside(mesh: &Mesh) -> (Envoy, SocketAddr) {
    envoy_with(mesh, &mesh.resources()).await
}

async fn envoy_with(mesh: &Mesh, resources: &[Resource]) -> (Envoy, SocketAddr) {
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

const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {type: Exact, value: /exact}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /seg}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /h}, headers: [{name: x-kind, value: blue}]}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /q}, queryParams: [{name: v, value: "2"}]}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /put}, method: PUT}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /redirect}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /fresh}, statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /rewrite}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /headers}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: new}], add: [{name: x-add, value: second}], remove: [x-gone]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-app, value: hidden}], add: [{name: x-more, value: "1"}]}
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /timeout}}]
    timeouts: {request: 200ms}
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /absent}}]
    backendRefs: [{name: absent, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /empty}}]
    backendRefs: [{name: empty, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /web}}]
    backendRefs: [{name: web, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: default}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: DENY
  rules:
  - to: [{operation: {paths: ["/web/admin", "/web/admin/*"]}}]
  - to: [{operation: {methods: [DELETE]}}]
  - from: [{source: {namespaces: [other]}}]
    to: [{operation: {hosts: ["secret.example"]}}]
"#;

/// Requests as bytes; `\n` stands for CRLF. The reason says why another answer than Envoy's is right.
fn requests() -> Vec<(&'static str, Option<&'static str>)> {
    let bare = Some("hyper answers what it can't read with a bare 400");
    let stricter =
        Some("hyper refuses what Envoy lets pass or ends without an answer; nothing gets upstream");
    vec![
        ("GET /web HTTP/1.1\nhost: web\n\n", None),
        ("GET /web?a=1&b=2 HTTP/1.1\nhost: web:80\n\n", None),
        ("HEAD /web HTTP/1.1\nhost: web\n\n", None),
        (
            "POST /web HTTP/1.1\nhost: web\ncontent-length: 5\n\nhello",
            None,
        ),
        (
            "POST /web HTTP/1.1\nhost: web\ntransfer-encoding: chunked\n\n5\nhello\n0\n\n",
            None,
        ),
        (
            "PATCH /web HTTP/1.1\nhost: web\ncontent-length: 0\n\n",
            None,
        ),
        ("OPTIONS /web HTTP/1.1\nhost: web\n\n", None),
        ("PURGE /web HTTP/1.1\nhost: web\n\n", None),
        ("GET /exact HTTP/1.1\nhost: web\n\n", None),
        ("GET /exact/ HTTP/1.1\nhost: web\n\n", None),
        ("GET /exact?x HTTP/1.1\nhost: web\n\n", None),
        ("GET /seg HTTP/1.1\nhost: web\n\n", None),
        ("GET /seg/x HTTP/1.1\nhost: web\n\n", None),
        ("GET /segment HTTP/1.1\nhost: web\n\n", None),
        ("GET /h HTTP/1.1\nhost: web\nx-kind: blue\n\n", None),
        ("GET /h HTTP/1.1\nhost: web\nx-kind: red\n\n", None),
        (
            "GET /h HTTP/1.1\nhost: web\nx-kind: blue\nx-kind: red\n\n",
            None,
        ),
        ("GET /q?v=2 HTTP/1.1\nhost: web\n\n", None),
        ("GET /q?v=1&v=2 HTTP/1.1\nhost: web\n\n", None),
        ("GET /q?v=%32 HTTP/1.1\nhost: web\n\n", None),
        ("GET /q HTTP/1.1\nhost: web\n\n", None),
        (
            "PUT /put HTTP/1.1\nhost: web\ncontent-length: 2\n\nxy",
            None,
        ),
        ("GET /put HTTP/1.1\nhost: web\n\n", None),
        ("GET /redirect/page?x=1 HTTP/1.1\nhost: web\n\n", None),
        ("GET /redirect HTTP/1.1\nhost: web:8080\n\n", None),
        ("GET /rewrite/users?x=1 HTTP/1.1\nhost: web\n\n", None),
        ("GET /rewrite HTTP/1.1\nhost: web\n\n", None),
        (
            "GET /headers HTTP/1.1\nhost: web\nx-set: old\nx-add: first\nx-gone: 1\n\n",
            None,
        ),
        (
            "GET /timeout HTTP/1.1\nhost: web\nx-delay-ms: 1500\n\n",
            None,
        ),
        ("GET /absent HTTP/1.1\nhost: web\n\n", None),
        ("GET /empty HTTP/1.1\nhost: web\n\n", None),
        ("GET /nothing HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/admin/x HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/./admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/x/../admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/%61dmin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/x/%2e%2e/admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/x/..;/admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web//admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/a%2fb HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/a%2Fb HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/a%5cb HTTP/1.1\nhost: web\n\n", None),
        ("GET /web\\admin HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/%7euser HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/%zz HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/a;b=c HTTP/1.1\nhost: web\n\n", None),
        ("GET /web/ü HTTP/1.1\nhost: web\n\n", None),
        ("GET /web#frag HTTP/1.1\nhost: web\n\n", None),
        ("GET /../../web HTTP/1.1\nhost: web\n\n", None),
        ("GET http://other.example/web HTTP/1.1\nhost: web\n\n", None),
        ("GET web HTTP/1.1\nhost: web\n\n", None),
        ("OPTIONS * HTTP/1.1\nhost: web\n\n", None),
        ("CONNECT web:80 HTTP/1.1\nhost: web:80\n\n", None),
        ("DELETE /web HTTP/1.1\nhost: web\n\n", None),
        ("GET /web HTTP/1.1\nhost: secret.example\n\n", None),
        ("GET /web HTTP/1.1\nhost: WEB.Example\n\n", None),
        ("GET /web HTTP/1.1\n\n", None),
        (
            "GET /web HTTP/1.1\nhost: a\nhost: b\n\n",
            Some("two hosts are refused; Envoy joins them"),
        ),
        (
            "GET /web HTTP/1.1\nhost:\n\n",
            Some("an empty host is refused; Envoy passes it on"),
        ),
        ("GET /web HTTP/1.0\nhost: web\n\n", None),
        ("GET /web HTTP/1.0\n\n", None),
        ("GET /web HTTP/1.1\nhost: web\nconnection: close\n\n", None),
        (
            "GET /web HTTP/1.1\nhost: web\nconnection: keep-alive, x-hop\nx-hop: 1\nkeep-alive: 5\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nproxy-connection: keep-alive\n\n",
            None,
        ),
        ("GET /web HTTP/1.1\nhost: web\nte: trailers\n\n", None),
        ("GET /web HTTP/1.1\nhost: web\nte: gzip, trailers\n\n", None),
        (
            "GET /web HTTP/1.1\nhost: web\nupgrade: h2c\nconnection: upgrade, http2-settings\nhttp2-settings: x\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nupgrade: foo\nconnection: upgrade\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nx-forwarded-for: 1.2.3.4\nx-forwarded-proto: https\nx-forwarded-host: h\nx-forwarded-port: 1\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nforwarded: for=1.2.3.4\nvia: 1.1 x\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nx-forwarded-client-cert: By=spiffe://evil\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nx-envoy-retry-on: 5xx\nx-envoy-max-retries: 3\nx-envoy-upstream-rq-timeout-ms: 1\nx-envoy-decorator-operation: x\n\n",
            Some("a client doesn't name our spans"),
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nx-envoy-internal: true\nx-envoy-external-address: 9.9.9.9\n\n",
            None,
        ),
        ("GET /web HTTP/1.1\nhost: web\nx_under_score: 1\n\n", None),
        (
            "GET /web HTTP/1.1\nhost: web\nexpect: 100-continue\ncontent-length: 0\n\n",
            None,
        ),
        ("GET /web HTTP/1.1\nhost: web\nx-status: 404\n\n", None),
        ("GET /web HTTP/1.1\nhost: web\nx-status: 204\n\n", None),
        ("GET /web HTTP/1.1\nhost: web\nx-status: 503\n\n", None),
        (
            "GET /web HTTP/1.1\nhost: web\nx-answer-header: server=mine\n\n",
            None,
        ),
        (
            "GET /web HTTP/1.1\nhost: web\nx-answer-header: connection=x\n\n",
            None,
        ),
        ("GET /web HTTP/1.1\nhost: web\nx-empty:\n\n", None),
        (
            "POST /web HTTP/1.1\nhost: web\ncontent-length: 5\ntransfer-encoding: chunked\n\n0\n\n",
            bare,
        ),
        (
            "POST /web HTTP/1.1\nhost: web\ncontent-length: 1\ncontent-length: 2\n\nab",
            bare,
        ),
        (
            "POST /web HTTP/1.1\nhost: web\ncontent-length: -1\n\n",
            bare,
        ),
        (
            "POST /web HTTP/1.1\nhost: web\ntransfer-encoding: gzip\n\n",
            bare,
        ),
        ("GET /web HTTP/1.1\nhost: web\nx: 1\n folded\n\n", stricter),
        ("GET /web HTTP/1.1\nhost: web\nbad name: 1\n\n", bare),
        ("GET  /web HTTP/1.1\nhost: web\n\n", stricter),
        ("GET /web HTTP/1.2\nhost: web\n\n", bare),
        ("GARBAGE\n\n", bare),
    ]
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

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn time_limits_count_as_envoy_counts_them() {
    for http2 in [false, true] {
        let mesh = Mesh::new();
        let (to, attempts) = clocks::service(&mesh, http2).await;
        let (envoy, address) = envoy_beside(&mesh).await;
        let certificate = mesh.certificate("default", "curl");
        let client = Ztunnel::connect(address, &certificate).await.unwrap();
        clocks::play_all(&client, to, || envoy.log()).await;
        clocks::assert_told(&attempts);
    }
}

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn time_limits_of_requests_that_wait_count_as_envoy_counts_them() {
    let mesh = Mesh::new();
    let (to, attempts) = clocks::service(&mesh, false).await;
    let resources = limited(&mesh, [1, NONE, NONE, NONE]);
    let (envoy, address) = envoy_with(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect(address, &certificate).await.unwrap();
    pending::play_all(&client, to, &attempts, || envoy.log()).await;
}

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn silent_peers_are_ended_as_envoy_ends_them() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let (_envoy, address) = envoy_with(&mesh, &keepalives::resources(&mesh)).await;
    keepalives::play_all(address, to, &mesh.certificate("default", "curl")).await;
}

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn late_heads_are_answered_as_envoy_answers_them() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let (envoy, address) = envoy_with(&mesh, &late_heads::resources(&mesh)).await;
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect(address, &certificate).await.unwrap();
    late_heads::play_all(&client, to, || envoy.log()).await;
}

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn answers_that_break_off_arrive_as_far_as_they_came() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    broken_answers::backend(backend).await;
    let (envoy, address) = envoy_beside(&mesh).await;
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect(address, &certificate).await.unwrap();
    broken_answers::play(&client, to, || envoy.log()).await;
}
