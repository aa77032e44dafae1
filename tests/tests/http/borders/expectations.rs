//! `expect: 100-continue`: who says 100, and what becomes of a body that nobody asked for.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use waypoint_tests::backend::{Backend, Speaks};
use waypoint_tests::wait::within;
use waypoint_tests::wire::{Framing, read_body, read_head};
use waypoint_tests::{ControlPlane, Mesh, Ztunnel};

use super::{UPSTREAMS, changed, envoy_beside, scene};

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
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
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
                    // Whether or not it waits: the upstream has said it.
                    (Body::AtOnce, "say") => "100 200 kept",
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
    let (_envoy, envoy) = envoy_beside(&scene.mesh, &scene.mesh.resources()).await;
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
                if to.0 == Speaks::Http2 {
                    // Of HTTP/2's there is no word.
                    story = story.replace("100 ", "");
                }
                if sends == Body::AtOnce || to.0 == Speaks::Http2 {
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

#[tokio::test]
async fn without_the_setting_the_waypoint_says_100_itself() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "web-1", "web", false);
    let address = mesh.backend(1);
    let backend = Backend::start(address, Speaks::Http11).await;
    let to = (Speaks::Http11, mesh.service(1, "web"), backend);
    let istiod = ControlPlane::start(&mesh).await;
    istiod
        .discovery
        .set(changed(&mesh, |manager| manager.proxy_100_continue = false));
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    for behaviour in ["", "say"] {
        let expectation = (behaviour, "length");
        let (story, got) = expect_of(&client, &to, FRAMINGS[0], Body::Waits, expectation).await;
        assert_eq!(story, "100 200 kept");
        let upstream = (Framing::Length(5), "hello".to_owned(), String::new());
        assert_eq!(got, [upstream]);
    }
}
