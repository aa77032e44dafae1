//! A proxy's duties at the borders between the versions of HTTP.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::backend::{Backend, Got, Speaks};
use waypoint_tests::envoy::{Envoy, Settings, bootstrap};
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::versions::{Answered, Sends, Version, send};
use waypoint_tests::wait::within;
use waypoint_tests::wire::{Framing, read_body, read_head};
use waypoint_tests::ztunnel::End;
use waypoint_tests::{ControlPlane, Mesh, Waypoint, Ztunnel};

const CLIENTS: [Version; 3] = [Version::Http10, Version::Http11, Version::Http2];
const UPSTREAMS: [Speaks; 3] = [Speaks::Http10, Speaks::Http11, Speaks::Http2];
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PURGE",
];
const BODIES: [Sends; 7] = [
    Sends::Nothing,
    Sends::Length("hello"),
    Sends::Length(""),
    Sends::Unknown("hello"),
    Sends::Unknown(""),
    Sends::Trailers("hello"),
    Sends::Upgrade("ping"),
];
const ANSWERS: [&str; 6] = ["length", "unknown", "close", "trailers", "none", "413"];

struct Scene {
    mesh: Mesh,
    waypoint: Waypoint,
    client: Ztunnel,
    to: Vec<(Speaks, SocketAddr, Backend)>,
}

async fn scene() -> Scene {
    let mesh = Mesh::new();
    let mut to = Vec::new();
    for (n, speaks) in (1..).zip(UPSTREAMS) {
        let name = format!("web-{n}");
        let port = match speaks {
            Speaks::Http2 => "http2",
            _ => "http",
        };
        mesh.describe_pod(n, &format!("{name}-1"), &name, false);
        let backend = Backend::start(SocketAddr::new(mesh.pod_ip(n), 8080), speaks).await;
        let port = format!("{{name: {port}, port: 80, targetPort: 8080}}");
        to.push((speaks, mesh.service_with_port(n, &name, &port), backend));
    }
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    Scene {
        mesh,
        waypoint,
        client,
        to,
    }
}

/// Every request of the matrix: `(client, method, body, answer)`.
fn requests() -> Vec<(Version, &'static str, Sends, &'static str)> {
    let mut all = Vec::new();
    for client in CLIENTS {
        for method in METHODS {
            for sends in BODIES {
                all.push((client, method, sends, "length"));
            }
        }
        for method in ["GET", "HEAD", "POST"] {
            for answer in ANSWERS {
                all.push((client, method, Sends::Nothing, answer));
            }
        }
    }
    all
}

async fn exchange(
    ztunnel: &Ztunnel,
    to: &(Speaks, SocketAddr, Backend),
    request: (Version, &'static str, Sends, &'static str),
) -> (Answered, Vec<Got>) {
    let (client, method, sends, answer) = request;
    let headers = [("x-answer", answer)];
    let answered = send(ztunnel, to.1, client, method, sends, &headers).await;
    let mut got = to.2.take();
    got.retain(|got| !got.line.contains("/again"));
    (answered, got)
}

/// Envoy as the waypoint of this mesh.
async fn envoy_beside(mesh: &Mesh) -> (Envoy, SocketAddr) {
    let settings = Settings {
        hbone: SocketAddr::new(mesh.pod_ip(253), 15008),
        admin: SocketAddr::new(mesh.pod_ip(253), 15000),
        certs: mesh.folder().join("envoy-certs"),
    };
    mesh.certificate("default", "waypoint")
        .write(&settings.certs)
        .unwrap();
    let bootstrap = bootstrap(&mesh.resources(), &settings);
    let folder = mesh.folder().to_path_buf();
    let admin = settings.admin;
    let program = std::env::var("WAYPOINT_ENVOY").expect("WAYPOINT_ENVOY names Envoy's binary");
    let envoy =
        tokio::task::spawn_blocking(move || Envoy::start(&[&program], &bootstrap, &folder, admin));
    (envoy.await.unwrap(), settings.hbone)
}

/// What has to come of a request.
fn expected(
    (client, method, sends, answer): (Version, &'static str, Sends, &'static str),
    upstream: Speaks,
) -> (Answered, Vec<Got>) {
    let answered = |status: &str, framing, body: &str| Answered {
        status: status.to_owned(),
        framing: if method == "HEAD" {
            Framing::None
        } else {
            framing
        },
        body: if method == "HEAD" { "" } else { body }.to_owned(),
        trailers: Vec::new(),
        kept: true,
    };
    let open = matches!(sends, Sends::Unknown(_) | Sends::Trailers(_));
    if client == Version::Http10 {
        // Codings are unknown to it, and istiod doesn't let it in.
        let mut answered = match open {
            true => answered("1.1 400", Framing::Length(0), ""),
            false => answered("1.0 426", Framing::Length(16), "Upgrade Required"),
        };
        answered.kept = false;
        return (answered, Vec::new());
    }
    let upgrade = matches!(sends, Sends::Upgrade(_)) && client == Version::Http11;
    if upgrade && upstream == Speaks::Http2 {
        let text = "upstream connect error or disconnect/reset before headers. reset reason: protocol error";
        return (answered("1.1 502", Framing::Length(87), text), Vec::new());
    }
    let version = if client == Version::Http2 { "2" } else { "1.1" };
    let mut answered = match answer {
        _ if upgrade => Answered {
            kept: false,
            body: "ping".to_owned(),
            ..answered("1.1 101", Framing::None, "")
        },
        "length" => answered(&format!("{version} 200"), Framing::Length(5), "hello"),
        "413" => answered(&format!("{version} 413"), Framing::Length(5), "hello"),
        "none" => answered(&format!("{version} 204"), Framing::None, ""),
        _ => answered(&format!("{version} 200"), Framing::Unknown, "hello"),
    };
    // In HTTP/1.1 only trailers pass that were announced; nothing in HTTP/2 announces them.
    let pass = match (client, upstream) {
        (_, Speaks::Http10) => false,
        (Version::Http11, Speaks::Http2) => false,
        _ => method != "HEAD",
    };
    let end = || vec![("x-end".to_owned(), "1".to_owned())];
    if answer == "trailers" && pass {
        answered.trailers = end();
    }
    (
        answered,
        vec![expected_upstream(client, method, sends, answer, upstream)],
    )
}

fn expected_upstream(
    client: Version,
    method: &str,
    sends: Sends,
    answer: &str,
    upstream: Speaks,
) -> Got {
    let bodiless = ["GET", "HEAD", "DELETE"].contains(&method);
    let upgrade = matches!(sends, Sends::Upgrade(_)) && client == Version::Http11;
    let (framing, body) = match sends {
        Sends::Length(body) => (Framing::Length(body.len()), body),
        Sends::Unknown(body) | Sends::Trailers(body) => (Framing::Unknown, body),
        _ if bodiless || upgrade => (Framing::None, ""),
        _ => (Framing::Length(0), ""),
    };
    let trailers = matches!(sends, Sends::Trailers(_));
    let announced = trailers && client == Version::Http11;
    let mut headers = vec![("host", "web"), ("te", "trailers"), ("x-answer", answer)];
    if announced {
        headers.push(("trailer", "x-end"));
    }
    if upgrade {
        headers.extend([("connection", "Upgrade"), ("upgrade", "websocket")]);
    }
    headers.sort_unstable();
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let version = if upstream == Speaks::Http2 {
        "2"
    } else {
        "1.1"
    };
    Got {
        line: format!("{method} /x {version}"),
        headers: headers.into_iter().map(owned).collect(),
        framing,
        body: body.to_owned(),
        trailers: match announced || trailers && upstream == Speaks::Http2 {
            true => vec![("x-end".to_owned(), "1".to_owned())],
            false => Vec::new(),
        },
    }
}

#[tokio::test]
async fn every_version_to_every_version() {
    let scene = scene().await;
    for to in &scene.to {
        for request in requests() {
            let came = exchange(&scene.client, to, request).await;
            assert_eq!(came, expected(request, to.0), "{request:?} to {:?}", to.0);
        }
    }
    // An upstream that ends its connections costs no client its own, and one that doesn't is used again.
    let connections = |n: usize| scene.to[n].2.connections();
    assert!(
        connections(0) > 100 && connections(1) < 40,
        "{} {}",
        connections(0),
        connections(1)
    );
    let metrics = scene.waypoint.metrics().await;
    assert!(metrics.contains("waypoint_panics_total 0"));
}

/// Why an answer may differ from Envoy's; the other differences are faults.
fn allowed(
    (client, _, sends, answer): (Version, &'static str, Sends, &'static str),
    upstream: Speaks,
    ours: &mut (Answered, Vec<Got>),
    theirs: &mut (Answered, Vec<Got>),
) {
    let both = [ours, theirs];
    for (answered, got) in both {
        if client == Version::Http10 {
            // hyper answers HTTP/1.0 in HTTP/1.0, and codings there with 400.
            *answered = Answered {
                status: String::new(),
                framing: Framing::None,
                body: String::new(),
                ..answered.clone()
            };
        }
        if upstream == Speaks::Http2 && matches!(sends, Sends::Upgrade(_)) {
            // Envoy ends the connection where an upgrade failed.
            answered.kept = true;
        }
        if client != Version::Http2 || upstream != Speaks::Http2 || answer == "trailers" {
            // Trailers of HTTP/1.1 pass where they are announced, and never through istiod's Envoy.
            answered.trailers.clear();
            got.iter_mut().for_each(|got| got.trailers.clear());
        }
        for got in got {
            if upstream == Speaks::Http2 && got.framing == Framing::Length(0) {
                // hyper says that a POST is empty.
                got.framing = Framing::None;
            }
            for (_, value) in &mut got.headers {
                *value = value.to_ascii_lowercase();
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn every_version_to_every_version_beside_envoy() {
    let scene = scene().await;
    let (_envoy, beside) = envoy_beside(&scene.mesh).await;
    let certificate = scene.mesh.certificate("default", "curl");
    let envoy = Ztunnel::connect(beside, &certificate).await.unwrap();
    let mut differences = Vec::new();
    for to in &scene.to {
        for request in requests() {
            let mut ours = exchange(&scene.client, to, request).await;
            let mut theirs = exchange(&envoy, to, request).await;
            allowed(request, to.0, &mut ours, &mut theirs);
            if ours != theirs {
                differences.push(format!(
                    "{request:?} to {:?}\n  waypoint {ours:?}\n  envoy    {theirs:?}",
                    to.0
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What a client of HTTP/1.1 with `expect: 100-continue` does with its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// Sends it when it is told to, or after a while.
    Waits,
    /// Sends it after a while, whatever it is told.
    Impatient,
    /// Sends it with the head.
    AtOnce,
}

/// All heads that came, and what the connection was good for afterwards.
async fn expect(
    ztunnel: &Ztunnel,
    to: SocketAddr,
    framing: &str,
    body: &str,
    sends: Body,
    headers: &str,
) -> String {
    let mut stream = BufReader::new(ztunnel.tunnel(to).await);
    let head = format!(
        "POST /x HTTP/1.1\r\nhost: web\r\nExpect: 100-continue\r\n{framing}\r\n{headers}\r\n"
    );
    let mut story = String::new();
    let first = match sends {
        Body::AtOnce => head + body,
        _ => head,
    };
    stream.write_all(first.as_bytes()).await.unwrap();
    let mut sent = sends == Body::AtOnce;
    if sends == Body::Impatient {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        stream.write_all(body.as_bytes()).await.unwrap();
        sent = true;
    }
    let answered = async {
        loop {
            let Some(head) = read_head(&mut stream).await else {
                story.push_str(" end");
                return false;
            };
            let status = head.line.split(' ').nth(1).unwrap_or_default().to_owned();
            story.push_str(&format!(" {status}"));
            if status == "100" {
                assert!(head.headers.is_empty(), "{head:?}");
                if !sent {
                    stream.write_all(body.as_bytes()).await.unwrap();
                    sent = true;
                }
                continue;
            }
            let framing = head.answer_framing("POST");
            assert!(read_body(&mut stream, framing).await.is_some());
            if head.header("connection") == "close" {
                story.push_str(" close");
                return false;
            }
            return true;
        }
    };
    if within("answer to an expectation", answered).await {
        let again = b"GET /again HTTP/1.1\r\nhost: web\r\n\r\n";
        let _ = stream.write_all(again).await;
        let kept = within("another answer", read_head(&mut stream)).await;
        story.push_str(if kept.is_some() { " kept" } else { " end" });
    } else {
        let mut rest = Vec::new();
        let read = within("the end", stream.read_to_end(&mut rest)).await;
        story.push_str(if read.is_ok() && rest.is_empty() {
            " end"
        } else {
            " reset"
        });
    }
    story.trim().to_owned()
}

/// `(what the backend does, how it answers)`.
const EXPECTATIONS: [(&str, &str); 4] = [
    ("say", "length"),
    ("refuse", "413"),
    ("refuse", "length"),
    ("", "length"),
];
const FRAMINGS: [(&str, &str); 2] = [
    ("content-length: 5", "hello"),
    ("transfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
];

/// Every expectation that a backend can fulfil, and what comes of it here.
fn expectations() -> Vec<(usize, Body, &'static str, &'static str, &'static str)> {
    let mut all = Vec::new();
    for (n, upstream) in UPSTREAMS.into_iter().enumerate() {
        for sends in [Body::Waits, Body::Impatient, Body::AtOnce] {
            for (behaviour, answer) in EXPECTATIONS {
                let http2 = upstream == Speaks::Http2;
                let story = match (sends, behaviour) {
                    // Our backend of HTTP/2 can't say 100, and the others may say nothing at all.
                    (_, "say") if http2 => continue,
                    (Body::Waits, "") if !http2 => continue,
                    (Body::AtOnce, "refuse") if answer == "413" => "413 kept",
                    (Body::AtOnce, _) => "200 kept",
                    (_, "refuse") if answer == "413" => "413 close end",
                    (_, "refuse") => "200 close end",
                    (_, "") if !http2 => "200 kept",
                    _ => "100 200 kept",
                };
                all.push((n, sends, behaviour, answer, story));
            }
        }
    }
    all
}

/// The story, and for each attempt the framing, the body and the expectation that the backend saw.
async fn expect_of(
    ztunnel: &Ztunnel,
    (_, to, backend): &(Speaks, SocketAddr, Backend),
    (framing, body): (&str, &str),
    sends: Body,
    (behaviour, answer): (&str, &str),
) -> (String, Vec<(Framing, String, String)>) {
    let headers = format!("x-continue: {behaviour}\r\nx-answer: {answer}\r\n");
    let story = expect(ztunnel, *to, framing, body, sends, &headers).await;
    if behaviour == "refuse" {
        // A body that came all the same would be told of.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let mut got = backend.take();
    got.retain(|got| !got.line.contains("/again"));
    let got = got
        .into_iter()
        .map(|got| (got.framing, got.body.clone(), got.header("expect").concat()));
    (story, got.collect())
}

#[tokio::test]
async fn an_expectation_goes_to_the_upstream_and_its_100_comes_back() {
    let scene = scene().await;
    for framing in FRAMINGS {
        for (n, sends, behaviour, answer, story) in expectations() {
            let to = &scene.to[n];
            let what = format!("{:?} {framing:?} {sends:?} {behaviour} {answer}", to.0);
            let (came, got) =
                expect_of(&scene.client, to, framing, sends, (behaviour, answer)).await;
            assert_eq!(came, story, "{what}");
            assert_eq!(got.len(), 1, "{what}: {got:?}");
            let (_, body, expected) = &got[0];
            assert_eq!(expected, "100-continue", "{what}");
            if behaviour != "refuse" {
                assert_eq!(body, "hello", "{what}");
            } else if sends != Body::AtOnce {
                assert_eq!(body, "", "{what}");
            }
        }
    }
    // An upload that nobody wanted is no failure.
    let refused = [("response_code", "413"), ("response_flags", "-")];
    scene
        .waypoint
        .until_metric("istio_requests_total", &refused, 18.0)
        .await;
    let log = scene.waypoint.until_logged(" 413 - via_upstream ").await;
    assert!(log.contains("POST /x HTTP/1.1"), "{log}");
    let metrics = scene.waypoint.metrics().await;
    assert!(metrics.contains("waypoint_panics_total 0"));
    assert!(!metrics.contains("response_flags=\"DC\""), "{metrics}");
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn expectations_beside_envoy() {
    let scene = scene().await;
    let (_envoy, beside) = envoy_beside(&scene.mesh).await;
    let certificate = scene.mesh.certificate("default", "curl");
    let envoy = Ztunnel::connect(beside, &certificate).await.unwrap();
    for framing in FRAMINGS {
        for (n, sends, behaviour, answer, _) in expectations() {
            let to = &scene.to[n];
            if to.0 == Speaks::Http2 && behaviour.is_empty() && sends == Body::Waits {
                // Envoy has nothing to tell the client, which would wait for ever.
                continue;
            }
            let told = async |ztunnel: &Ztunnel| {
                let (mut story, mut got) =
                    expect_of(ztunnel, to, framing, sends, (behaviour, answer)).await;
                // Envoy resets a stream whose request isn't whole.
                story = story.replace("reset", "end");
                if sends == Body::AtOnce || to.0 == Speaks::Http2 {
                    // A 100 that nobody waits for isn't passed on; of HTTP/2's there is no word.
                    story = story.replace("100 ", "");
                    got.iter_mut().for_each(|got| got.1.clear());
                }
                (story, got)
            };
            let (ours, theirs) = (told(&scene.client).await, told(&envoy).await);
            assert_eq!(
                ours, theirs,
                "{:?} {framing:?} {sends:?} {behaviour} {answer}",
                to.0
            );
        }
    }
}

const ROUTE_AND_POLICY: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web-2, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web-2, port: 80}]
  rules:
  - retry: {codes: [503], attempts: 2, backoff: 10ms}
    backendRefs: [{name: web-2, port: 80}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: default}
spec:
  targetRefs: [{group: "", kind: Service, name: web-1}]
  action: DENY
  rules: [{to: [{operation: {methods: [POST]}}]}]
"#;

#[tokio::test]
async fn retries_and_policy_come_before_the_body() {
    let scene = scene().await;
    scene.mesh.manifest("more.yaml", ROUTE_AND_POLICY);
    let denied = async || {
        let expectation = ("say", "length");
        let (denied, web1) = (Body::Waits, &scene.to[0]);
        expect_of(&scene.client, web1, FRAMINGS[0], denied, expectation).await
    };
    waypoint_tests::wait::until("the policy", async || {
        (denied().await == ("403 close end".to_owned(), Vec::new())).then_some(())
    })
    .await;
    let (story, got) = expect_of(
        &scene.client,
        &scene.to[1],
        FRAMINGS[0],
        Body::Waits,
        ("busy", "length"),
    )
    .await;
    assert_eq!(story, "100 200 kept");
    let attempt = |body: &str| {
        let expectation = "100-continue".to_owned();
        (Framing::Length(5), body.to_owned(), expectation)
    };
    assert_eq!(got, [attempt(""), attempt("hello")]);
}

/// The mesh's resources, where the waypoint itself says 100.
fn saying_100_itself(mesh: &Mesh) -> Vec<Resource> {
    let mut resources = mesh.resources();
    let listeners = resources
        .iter_mut()
        .filter(|resource| resource.kind == ResourceType::Listener);
    for resource in listeners {
        let mut listener = Listener::decode(resource.body.clone()).unwrap();
        let chains = listener.filter_chains.iter_mut();
        for filter in chains.flat_map(|chain| &mut chain.filters) {
            if let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type
                && any.type_url.ends_with(".HttpConnectionManager")
            {
                let mut manager = HttpConnectionManager::decode(&any.value[..]).unwrap();
                manager.proxy_100_continue = false;
                any.value = manager.encode_to_vec();
            }
        }
        resource.body = listener.encode_to_vec().into();
    }
    resources
}

#[tokio::test]
async fn without_the_setting_the_waypoint_says_100_itself() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "web-1", "web", false);
    let address = SocketAddr::new(mesh.pod_ip(1), 8080);
    let backend = Backend::start(address, Speaks::Http11).await;
    let to = (Speaks::Http11, mesh.service(1, "web"), backend);
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(saying_100_itself(&mesh));
    let waypoint = mesh.start_under(&istiod).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    for behaviour in ["", "say"] {
        let expectation = (behaviour, "length");
        let (story, got) = expect_of(&client, &to, FRAMINGS[0], Body::Waits, expectation).await;
        assert_eq!(story, "100 200 kept");
        let upstream = (Framing::Length(5), "hello".to_owned(), String::new());
        assert_eq!(got, [upstream]);
    }
}

/// `(what, bytes, status, details, what the backend saw of the line)`; an empty line: it saw nothing.
fn heads() -> Vec<(String, String, u16, &'static str, &'static str)> {
    let request =
        |headers: &str| format!("POST /x HTTP/1.1\r\nhost: web\r\n{headers}\r\n\r\n0\r\n\r\n");
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: web\r\n\r\n");
    // Exactly so many bytes from the first to the last.
    let long = |n: usize| {
        format!(
            "GET /x HTTP/1.1\r\nhost: web\r\nx: {}\r\n\r\n",
            "b".repeat(n - 35)
        )
    };
    let headers = |n: usize| {
        let more = "x: 1\r\n".repeat(n - 1);
        format!("GET /x HTTP/1.1\r\nhost: web\r\n{more}\r\n")
    };
    let two = "http1.content_length_and_chunked_not_allowed";
    let coding = "http1.invalid_transfer_encoding";
    let large = "http1.headers_too_large";
    let query = "GET /x?q={a=%22b%22}%3C%3E`|^\\ 1.1";
    [
        (
            "a length, then chunked",
            request("content-length: 5\r\ntransfer-encoding: chunked"),
            400,
            two,
            "",
        ),
        (
            "chunked, then a length",
            request("transfer-encoding: chunked\r\ncontent-length: 5"),
            400,
            two,
            "",
        ),
        (
            "a coding and chunked",
            request("transfer-encoding: gzip, chunked"),
            400,
            coding,
            "",
        ),
        (
            "chunked twice",
            request("transfer-encoding: chunked\r\ntransfer-encoding: chunked"),
            400,
            coding,
            "",
        ),
        (
            "a coding",
            request("transfer-encoding: gzip"),
            400,
            coding,
            "",
        ),
        ("the largest head", long(61_440), 200, "", "GET /x 1.1"),
        ("a byte more", long(61_441), 431, large, ""),
        ("61 KiB", long(62_464), 431, large, ""),
        ("far more", long(300_000), 431, large, ""),
        ("a hundred headers", headers(100), 200, "", "GET /x 1.1"),
        ("one more", headers(101), 431, large, ""),
        ("a query", target("/x?q={a=\"b\"}<>`|^\\"), 200, "", query),
        ("a path", target("/x<`>"), 200, "", "GET /x%3C%60%3E 1.1"),
        (
            "an absolute target",
            target("http://web/x?q=\"b\""),
            200,
            "",
            "GET /x?q=%22b%22 1.1",
        ),
    ]
    .map(|(what, bytes, status, details, line)| (what.to_owned(), bytes, status, details, line))
    .to_vec()
}

#[tokio::test]
async fn heads_are_judged_as_by_envoy() {
    let scene = scene().await;
    let (_, to, backend) = &scene.to[1];
    let mut refused = [0; 2];
    for (what, bytes, status, details, line) in heads() {
        // After another on the same connection: what is refused comes in its turn.
        let before = "GET /before HTTP/1.1\r\nhost: web\r\n\r\n";
        let (answer, end) = scene
            .client
            .exchange(*to, format!("{before}{bytes}").as_bytes())
            .await;
        let answers: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|a| &a[..3]).collect();
        assert_eq!(answers, ["200", &status.to_string()], "{what}: {answer}");
        let mut got = backend.take();
        got.remove(0);
        assert_eq!(
            got.iter().map(|g| &*g.line).collect::<Vec<_>>().concat(),
            line,
            "{what}"
        );
        if status != 200 {
            assert_eq!(end, End::Closed, "{what}");
            refused[usize::from(status == 431)] += 1;
            scene
                .waypoint
                .until_logged(&format!("\" {status} DPE {details} - "))
                .await;
        }
    }
    for (code, count) in [("400", refused[0]), ("431", refused[1])] {
        let labels = [("response_code", code), ("response_flags", "DPE")];
        scene
            .waypoint
            .until_metric("istio_requests_total", &labels, f64::from(count))
            .await;
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn heads_beside_envoy() {
    let scene = scene().await;
    let (envoy, beside) = envoy_beside(&scene.mesh).await;
    let certificate = scene.mesh.certificate("default", "curl");
    let theirs = Ztunnel::connect(beside, &certificate).await.unwrap();
    let (_, to, _) = &scene.to[1];
    for (what, bytes, status, details, _) in heads() {
        let (answer, _) = theirs.exchange(*to, bytes.as_bytes()).await;
        let expected = match details {
            // hyper knows no better than 400.
            "http1.invalid_transfer_encoding" => 501,
            _ => status,
        };
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{what}: {answer}"
        );
    }
    waypoint_tests::wait::until("Envoy's log", async || {
        let log = envoy.log();
        heads()
            .iter()
            .all(|head| log.contains(head.3))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn heads_that_come_in_parts_are_the_same_heads() {
    let scene = scene().await;
    let (_, to, backend) = &scene.to[1];
    let first = "POST /x?a=\"<b>\" HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    let second = "PUT /x?\" HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n";
    for part in [1, 7, 60] {
        let mut stream = BufReader::new(scene.client.tunnel(*to).await);
        send_in_parts(&mut stream, first, part).await;
        // Without the backend's word a client goes on by itself.
        send_in_parts(&mut stream, "hello", part).await;
        assert_eq!(answer_to(&mut stream, "POST").await, "HTTP/1.1 200 Fine");
        send_in_parts(
            &mut stream,
            &format!("{second}5\r\nhello\r\n0\r\n\r\n"),
            part,
        )
        .await;
        assert_eq!(answer_to(&mut stream, "PUT").await, "HTTP/1.1 200 Fine");
        let got = backend.take();
        let lines: Vec<_> = got.iter().map(|got| (&*got.line, &*got.body)).collect();
        let expected = [
            ("POST /x?a=%22%3Cb%3E%22 1.1", "hello"),
            ("PUT /x?%22 1.1", "hello"),
        ];
        assert_eq!(lines, expected, "{part}");
        assert_eq!(got[0].header("expect"), ["100-continue"]);
    }
    // What can't become a head isn't waited for.
    for text in [
        "\x16\x03\x01",
        "GE(T / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n bad\r\n",
    ] {
        let (answer, _) = scene.client.exchange(*to, text.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{text:?}: {answer}");
    }
}

async fn send_in_parts(stream: &mut BufReader<HboneStream>, text: &str, part: usize) {
    for part in text.as_bytes().chunks(part) {
        stream.write_all(part).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

async fn answer_to(stream: &mut BufReader<HboneStream>, method: &str) -> String {
    let answer = async {
        let head = read_head(stream).await.unwrap();
        read_body(stream, head.answer_framing(method))
            .await
            .unwrap();
        head.line
    };
    within("an answer", answer).await
}

#[tokio::test]
async fn crumbs_become_one_cookie() {
    let scene = scene().await;
    let crumbs = [
        ("cookie", "a=1"),
        ("x", "y"),
        ("cookie", "b=2"),
        ("cookie", "c=3"),
    ];
    for (speaks, to, backend) in &scene.to {
        for client in [Version::Http11, Version::Http2] {
            let sent = send(&scene.client, *to, client, "GET", Sends::Nothing, &crumbs).await;
            assert!(sent.status.ends_with(" 200"), "{sent:?}");
            let cookies = backend.take()[0].header("cookie").join(" and ");
            let expected = match client {
                Version::Http2 => "a=1; b=2; c=3",
                _ => "a=1 and b=2 and c=3",
            };
            assert_eq!(cookies, expected, "{client:?} to {speaks:?}");
        }
    }
}

#[tokio::test]
async fn the_same_limit_holds_for_http2() {
    let scene = scene().await;
    let (_, to, backend) = &scene.to[1];
    for (length, status) in [(59 << 10, "2 200"), (61 << 10, "2 431")] {
        let long = "b".repeat(length);
        let headers = [("x", &*long)];
        let sent = send(
            &scene.client,
            *to,
            Version::Http2,
            "GET",
            Sends::Nothing,
            &headers,
        )
        .await;
        assert_eq!(sent.status, status, "{length}");
        assert_eq!(backend.take().is_empty(), status != "2 200");
    }
}
