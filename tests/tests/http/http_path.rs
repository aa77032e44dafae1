//! HTTP through the waypoint: protocols, upstream over HBONE, upgrades, trailers, large bodies, 100-continue.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::pod_ztunnel::Behaviour;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{App, Mesh};

#[tokio::test]
async fn a_service_is_known_by_its_address_whatever_host_says() {
    let mesh = Mesh::new();
    let (to, web) = mesh.http_service(1, "web").await;
    let (_, other) = mesh.http_service(2, "other").await;
    let (_waypoint, curl) = mesh.started().await;
    for host in [
        "web",
        "other",
        "other.default.svc.cluster.local",
        "other.default.svc.cluster.local:80",
        "elsewhere.example:8443",
    ] {
        let asked = request(Method::GET, "/", &[("host", host)]);
        let answer = curl.request(to, asked).await;
        assert_eq!(answer.header("x-app"), "web", "{host}");
        assert_eq!(web.last().header("host"), host);
    }
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn a_captured_pod_is_reached_through_its_ztunnel() {
    let mesh = Mesh::new();
    let (to, app, ztunnel) = mesh.captured_service(1, "web").await;
    let (waypoint, curl) = mesh.started().await;
    let mut connection = curl.http1(to).await;
    for _ in 0..20 {
        let answer = connection.send(get("/x")).await;
        assert_eq!(
            (answer.status, answer.header("x-app").as_str()),
            (StatusCode::OK, "web")
        );
    }
    let connects = ztunnel.connects();
    assert_eq!(connects.len(), 1, "one upstream connection is used again");
    assert_eq!(connects[0].authority, format!("{}:8080", mesh.pod_ip(1)));
    assert_eq!(app.seen().len(), 20);
    let labels = [
        (
            "destination_principal",
            "spiffe://cluster.local/ns/default/sa/web",
        ),
        ("destination_workload", "web-1"),
        ("request_protocol", "http"),
        ("response_code", "200"),
    ];
    waypoint
        .until_metric("istio_requests_total", &labels, 20.0)
        .await;
}

#[tokio::test]
async fn tunnels_to_many_pods_of_one_client_share_its_connection() {
    let mesh = Mesh::new();
    let (to, _, ztunnel) = mesh.captured_service(1, "web").await;
    let (_waypoint, curl) = mesh.started().await;
    let answers = (0..30).map(|_| curl.get(to, "/delayed"));
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(ztunnel.connections(), 1, "one HBONE connection upstream");
}

#[tokio::test]
async fn http2_with_prior_knowledge_on_the_same_port() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (waypoint, curl) = mesh.started().await;
    let connection = curl.http2(to).await;
    let sends = (0..50).map(|n| {
        let connection = connection.clone();
        async move { connection.send(get(&format!("/{n}"))).await }
    });
    for answer in futures_util::future::join_all(sends).await {
        assert_eq!(answer.status, StatusCode::OK);
    }
    let seen = app.last();
    assert_eq!(
        (seen.version, seen.header("host").as_str()),
        (Version::HTTP_11, "test")
    );
    let line = waypoint.until_logged("\"GET /7 HTTP/2\"").await;
    assert!(line.contains(" 200 "), "{line}");
}

#[tokio::test]
async fn a_service_that_speaks_http2_gets_it_with_trailers() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "grpc-1", "grpc", false);
    let app = App::http(mesh.backend(1), "grpc").await;
    let to = mesh.service_with_port(1, "grpc", "{name: grpc, port: 80, targetPort: 8080}");
    let (waypoint, curl) = mesh.started().await;
    let headers = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("x-trailers", "yes"),
    ];
    let answer = curl
        .http2(to)
        .await
        .send(request(Method::POST, "/a.B/C", &headers))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    let trailers = answer.trailers.expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    let seen = app.last();
    assert_eq!(
        (seen.version, seen.header("te").as_str()),
        (Version::HTTP_2, "trailers")
    );
    let labels = [("request_protocol", "grpc"), ("grpc_response_status", "0")];
    waypoint
        .until_metric("istio_requests_total", &labels, 1.0)
        .await;
}

#[tokio::test]
async fn a_websocket_is_joined_and_recorded_at_its_end() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (waypoint, curl) = mesh.started().await;
    let mut stream = curl.tunnel(to).await;
    stream
        .write_all(
            b"GET /chat HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
        )
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(
            within("switching protocols", stream.read_u8())
                .await
                .unwrap(),
        );
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");
    for word in ["hello", "world"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut echo = [0; 5];
        within("echo", stream.read_exact(&mut echo)).await.unwrap();
        assert_eq!(&echo, word.as_bytes());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waypoint.log().contains("/chat"), "the stream isn't over");
    stream.shutdown().await.unwrap();
    let line = waypoint.until_logged("/chat").await;
    assert!(line.contains(" 101 "), "{line}");
    assert!(line.contains(" 10 10 "), "bytes both ways: {line}");
}

#[tokio::test]
async fn other_upgrades_are_refused_where_none_are_configured() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (_waypoint, curl) = mesh.started().await;
    let answer = curl
        .raw(
            to,
            b"GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: tls/1.0\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn the_client_is_told_to_continue_only_after_policy() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest(
        "policy.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: web}], action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}\n",
    );
    let (_waypoint, curl) = mesh.started().await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n"
        )
    };
    let denied = curl.raw(to, head("/no").as_bytes()).await;
    assert!(denied.starts_with("HTTP/1.1 403 "), "{denied}");

    let mut stream = curl.tunnel(to).await;
    stream.write_all(head("/yes").as_bytes()).await.unwrap();
    let mut go = [0; 25];
    within("100 Continue", stream.read_exact(&mut go))
        .await
        .unwrap();
    assert_eq!(&go, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut status = [0; 12];
    within("answer", stream.read_exact(&mut status))
        .await
        .unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    assert_eq!(app.last().body, "body");
}

#[tokio::test]
async fn large_bodies_stream_both_ways() {
    const SIZE: usize = 24 << 20;
    let mesh = Mesh::new();
    let (to, app, _) = mesh.captured_service(1, "web").await;
    let (waypoint, curl) = mesh.started().await;
    let upload = Request::post("/up")
        .header("host", "web")
        .body(Full::new(Bytes::from(vec![b'u'; SIZE])));
    let answer = curl.request(to, upload.unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(app.last().body.len(), SIZE);
    let size = SIZE.to_string();
    let answer = curl
        .request(
            to,
            request(Method::GET, "/down", &[("x-answer-bytes", &size)]),
        )
        .await;
    assert_eq!(answer.body.len(), SIZE);
    let line = waypoint.until_logged("/down").await;
    assert!(line.contains(&format!(" 0 {SIZE} ")), "{line}");
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "flood");
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = sent.clone();
    App::tcp(backend, move |mut tcp| {
        let counter = counter.clone();
        async move {
            let mut head = [0; 1024];
            let _ = tcp.read(&mut head).await;
            let _ = tcp
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 268435456\r\n\r\n")
                .await;
            let chunk = vec![b'x'; 64 * 1024];
            while tcp.write_all(&chunk).await.is_ok() {
                counter.fetch_add(chunk.len(), std::sync::atomic::Ordering::Relaxed);
            }
        }
    })
    .await;
    let (_waypoint, curl) = mesh.started().await;
    let mut connection = curl.http1(to).await;
    let response = connection.start(get("/")).await.unwrap();
    // Nobody reads; what the sender gets rid of is bounded by sockets and windows.
    let mut before = 0;
    let held = until("a sender that stands still", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = sent.load(std::sync::atomic::Ordering::Relaxed);
        let still = now > 0 && now == before;
        before = now;
        still.then_some(now)
    })
    .await;
    assert!(held < 32 << 20, "{held} bytes went somewhere");
    drop(response);
}

#[tokio::test]
async fn what_the_upstream_sees_of_the_request() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (_waypoint, curl) = mesh.started().await;
    let headers = [
        ("host", "web.example:80"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("x-forwarded-client-cert", "By=spiffe://evil"),
        ("x-envoy-retry-on", "5xx"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-request-id", "mine"),
        ("x-other", "stays"),
    ];
    curl.request(to, request(Method::GET, "/a/./b/../c//d?q=%2e", &headers))
        .await;
    let seen = app.last();
    assert_eq!(
        seen.target, "/a/c//d?q=%2e",
        "BASE normalization leaves slashes and the query"
    );
    assert_eq!(seen.header("host"), "web.example:80");
    for gone in [
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "x-forwarded-client-cert",
        "x-envoy-retry-on",
    ] {
        assert_eq!(seen.header(gone), "", "{gone}");
    }
    assert_eq!(seen.header("x-forwarded-for"), "203.0.113.9");
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert_eq!(seen.header("x-request-id"), "mine");
    assert_eq!(seen.header("x-other"), "stays");
}

#[tokio::test]
async fn an_upstream_that_went_away_is_replaced_without_the_client_noticing() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "once");
    App::tcp(backend, |mut tcp| async move {
        // One answer, with keep-alive promised, and gone.
        let mut head = [0; 1024];
        let _ = tcp.read(&mut head).await;
        let _ = tcp
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
    })
    .await;
    let (_waypoint, curl) = mesh.started().await;
    let mut connection = curl.http1(to).await;
    for n in 0..30 {
        let answer = connection.send(get(&format!("/{n}"))).await;
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "request {n}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn broken_upstreams_are_answered_for() {
    let mesh = Mesh::new();
    let (to, _, ztunnel) = mesh.captured_service(1, "web").await;
    let nobody = {
        mesh.describe_pod(2, "nobody-1", "nobody", false);
        mesh.service(2, "nobody")
    };
    let empty = mesh.service(3, "empty");
    let (unready, app) = mesh.http_service(4, "unready").await;
    let pod = std::fs::read_to_string(mesh.manifests().join("pod-unready-1.yaml")).unwrap();
    let not_yet = pod.replace("status: 'True'", "status: 'False'");
    assert_ne!(pod, not_yet);
    mesh.manifest("pod-unready-1.yaml", &not_yet);
    let (waypoint, curl) = mesh.started().await;

    let answer = curl.get(unready, "/unready").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream")
    );
    assert!(app.seen().is_empty());

    let answer = curl.get(nobody, "/refused").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        answer
            .text()
            .starts_with("upstream connect error or disconnect/reset before headers.")
    );
    let line = waypoint.until_logged("/refused").await;
    assert!(line.contains(" 503 URX,UF "), "{line}");

    let answer = curl.get(empty, "/empty").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream")
    );
    let line = waypoint.until_logged("/empty").await;
    assert!(line.contains(" 503 UH "), "{line}");

    ztunnel.behave(Behaviour::Answer(StatusCode::UNAUTHORIZED));
    assert_eq!(
        curl.get(to, "/unauthorized").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    ztunnel.behave(Behaviour::Reset);
    assert_eq!(
        curl.get(to, "/reset").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let line = waypoint.until_logged("/reset").await;
    assert!(line.contains(" 503 U"), "{line}");
    ztunnel.behave(Behaviour::Deliver);
    assert_eq!(curl.get(to, "/fine").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_goes_away_frees_the_upstream_and_is_recorded() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (waypoint, curl) = mesh.started().await;
    let stream = curl.tunnel(to).await;
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(driver);
    let (_feed, frames) =
        tokio::sync::mpsc::unbounded_channel::<Result<Frame<Bytes>, std::convert::Infallible>>();
    let frames = futures_util::stream::unfold(frames, |mut frames| async {
        Some((frames.recv().await?, frames))
    });
    let upload = Request::post("/half")
        .header("host", "web")
        .body(StreamBody::new(frames).boxed_unsync());
    let sent = tokio::spawn(async move { sender.send_request(upload.unwrap()).await.is_ok() });
    until("the request at the backend", async || {
        (app.connections() == 1).then_some(())
    })
    .await;
    driver.abort();
    sent.abort();
    let line = waypoint.until_logged("/half").await;
    assert!(
        line.contains(" 0 DC downstream_remote_disconnect "),
        "{line}"
    );
    assert_eq!(
        app.seen()
            .iter()
            .filter(|seen| seen.body != "<broken>")
            .count(),
        0
    );
}
