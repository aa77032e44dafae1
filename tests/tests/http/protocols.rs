//! Which protocol is spoken on either side, and what passes from one to the other: trailers, upgrades,
//! HTTP/2 by port name or `appProtocol`, and all of it inside a tunnel to the pod's ztunnel.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_hbone::identity::Identity;
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{Http2, get, request};
use waypoint_tests::{App, Mesh};

/// A service behind a ztunnel, with a port of the story's choice.
async fn captured(mesh: &Mesh, port: &str) -> (SocketAddr, App, PodZtunnel) {
    let (_, app, ztunnel) = mesh.captured_service(1, "web").await;
    (mesh.service_with_port(1, "web", port), app, ztunnel)
}

const H2C: &str = "{name: web, port: 80, targetPort: 8080, appProtocol: kubernetes.io/h2c}";
const HTTP: &str = "{name: http, port: 80, targetPort: 8080}";

#[tokio::test]
async fn the_pods_ztunnel_meets_the_waypoint_and_nobody_else() {
    let mesh = Mesh::new();
    let (to, _, ztunnel) = captured(&mesh, HTTP).await;
    let waypoint = mesh.start().await;
    for (namespace, account) in [("default", "curl"), ("other", "stranger")] {
        let client = mesh.client(&waypoint, namespace, account).await;
        assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    }
    assert!(!ztunnel.connects().is_empty());
    for connect in ztunnel.connects() {
        assert_eq!(
            connect.peer,
            "spiffe://cluster.local/ns/default/sa/waypoint"
        );
        assert_eq!(connect.authority, format!("{}:8080", mesh.pod_ip(1)));
    }
}

#[tokio::test]
async fn who_is_not_of_the_mesh_is_not_spoken_to() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "web-1", "web", true);
    let app = App::http(mesh.backend(1), "web").await;
    let to = mesh.service(1, "web");
    // Whoever took over the address has our CA's word for another trust domain.
    let foreign = Identity::istio("evil.example", "default", "web").unwrap();
    let foreign = mesh.ca.mint(&foreign, Duration::from_secs(3600)).unwrap();
    let ztunnel = PodZtunnel::start(mesh.pod_ip(1), &foreign).await;
    let (waypoint, client) = mesh.started().await;
    let answer = client.get(to, "/foreign").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ztunnel.connects().is_empty() && app.seen().is_empty());
    let line = waypoint.until_logged("/foreign").await;
    assert!(line.contains(" 503 URX,UF "), "{line}");
    assert!(
        line.contains(&format!(" \"{}:8080\" ", mesh.pod_ip(1))),
        "{line}"
    );
}

#[tokio::test]
async fn http2_all_the_way_to_a_captured_pod() {
    let mesh = Mesh::new();
    let (to, app, ztunnel) = captured(&mesh, H2C).await;
    let (_waypoint, client) = mesh.started().await;
    let connection = client.http2(to).await;
    let sends = (0..40).map(|n| {
        let connection = connection.clone();
        async move { connection.send(get(&format!("/{n}"))).await }
    });
    for answer in futures_util::future::join_all(sends).await {
        assert_eq!(answer.status, StatusCode::OK);
    }
    let seen = app.last();
    assert_eq!(seen.version, Version::HTTP_2);
    assert!(seen.target.starts_with("http://test/"), "{}", seen.target);
    // The streams share connections: how many is the pool's business.
    assert!(
        ztunnel.connects().len() <= 8,
        "{}",
        ztunnel.connects().len()
    );
}

#[tokio::test]
async fn http1_inside_and_http2_upstream() {
    let mesh = Mesh::new();
    let (to, app, _ztunnel) = captured(&mesh, H2C).await;
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    for n in 0..10 {
        let mut post = request(Method::POST, &format!("/{n}?q"), &[("host", "web.example")]);
        *post.body_mut() = "body".into();
        let answer = connection.send(post).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (StatusCode::OK, "web\n")
        );
    }
    let seen = app.last();
    assert_eq!(seen.version, Version::HTTP_2);
    assert_eq!(seen.target, "http://web.example/9?q");
    assert_eq!(seen.body, "body");
    assert_eq!(seen.header("connection"), "");
}

fn with_trailers() -> (
    http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>,
    HeaderMap,
) {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("abc"));
    let sent = trailers.clone();
    let body = Full::new(Bytes::from_static(b"body")).with_trailers(async move { Some(Ok(sent)) });
    (body.boxed(), trailers)
}

#[tokio::test]
async fn trailers_pass_both_ways_over_http2() {
    let mesh = Mesh::new();
    let (to, app, _ztunnel) = captured(&mesh, H2C).await;
    let (_waypoint, client) = mesh.started().await;
    let stream = client.tunnel(to).await;
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(driver);
    let (body, trailers) = with_trailers();
    let post = Request::post("http://web/t")
        .header("te", "trailers")
        .header("x-trailers", "yes")
        .body(body)
        .unwrap();
    let response = within("the answer", sender.send_request(post)).await;
    let answer = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(app.last().trailers, Some(trailers));
    assert_eq!(app.last().body, "body");
}

#[tokio::test]
async fn answers_of_one_turn_share_the_tunnels_frames() {
    let mesh = Mesh::new();
    let (to, _, _ztunnel) = captured(&mesh, H2C).await;
    let body = "g".repeat(1024);
    mesh.manifest(
        "said.yaml",
        &format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: web, namespace: default}}, spec: \
             {{hosts: [web], http: [{{directResponse: {{status: 200, body: {{string: {body}}}}}}}]}}}}"
        ),
    );
    let (_waypoint, client) = mesh.started().await;
    let frames = Arc::new(AtomicUsize::new(0));
    let client = Http2::over(client.tunnel(to).await.counting(frames.clone())).await;
    assert_eq!(client.send(get("/")).await.body.len(), 1024);
    let before = frames.load(Ordering::Relaxed);
    let answers = (0..40).map(|_| client.send(get("/")));
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(
            (answer.status, answer.body.len()),
            (StatusCode::OK, body.len())
        );
    }
    // h2 flushes after each answer's DATA.
    let came = frames.load(Ordering::Relaxed) - before;
    assert!(came <= 20, "{came} frames for 40 answers");
}

#[tokio::test]
async fn a_websocket_passes_through_the_pods_ztunnel() {
    let mesh = Mesh::new();
    let (to, app, ztunnel) = captured(&mesh, HTTP).await;
    let (waypoint, client) = mesh.started().await;
    let mut stream = client.tunnel(to).await;
    // The client's first frame comes with the request: it isn't lost.
    stream
        .write_all(
            b"GET /chat HTTP/1.1\r\nhost: web\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
              sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
        )
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the switch", stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let sent: Vec<u8> = (0..1 << 20).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let bytes = sent.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut echoed = Vec::new();
    within("the echo", read.read_to_end(&mut echoed))
        .await
        .unwrap();
    assert!(echoed == sent, "{} bytes of {}", echoed.len(), sent.len());
    writing.await.unwrap();
    let seen = app.last();
    assert_eq!(seen.header("sec-websocket-key"), "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(seen.header("upgrade").to_ascii_lowercase(), "websocket");
    assert_eq!(ztunnel.connects().len(), 1);
    let line = waypoint.until_logged("/chat").await;
    let bytes = format!(" {0} {0} ", sent.len());
    assert!(line.contains(" 101 ") && line.contains(&bytes), "{line}");
}

#[tokio::test]
async fn a_websocket_ends_with_its_client_while_the_upstream_takes_nothing() {
    let mesh = Mesh::new();
    let (to, address) = mesh.bare_service(1, "web");
    App::tcp(address, |mut tcp| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        let switch =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        tcp.write_all(switch).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let (waypoint, client) = mesh.started().await;
    let mut stream = client.tunnel(to).await;
    stream
        .write_all(
            b"GET /chat HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the switch", stream.read_u8()).await.unwrap());
    }
    // Until nothing more is taken.
    let second = Duration::from_secs(1);
    while let Ok(written) = tokio::time::timeout(second, stream.write_all(&[0; 65536])).await {
        written.unwrap();
    }
    stream.reset(h2::Reason::CANCEL);
    waypoint.until_logged("/chat").await;
}

#[tokio::test]
async fn a_denied_upgrade_stays_http() {
    let mesh = Mesh::new();
    let (to, app, _ztunnel) = captured(&mesh, HTTP).await;
    mesh.manifest(
        "policy.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: web}], action: DENY, rules: [{to: [{operation: {paths: [/chat]}}]}]}\n",
    );
    let (_waypoint, client) = mesh.started().await;
    let wanted = [("connection", "upgrade"), ("upgrade", "websocket")];
    let mut connection = client.http1(to).await;
    let answer = connection
        .send(request(Method::GET, "/chat", &wanted))
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn expect_100_continue_needs_no_answer_to_go_on() {
    let mesh = Mesh::new();
    let (to, app, _ztunnel) = captured(&mesh, H2C).await;
    let (_waypoint, client) = mesh.started().await;
    // The client doesn't wait; the upstream speaks HTTP/2 and never says 100 itself.
    let answer = client
        .raw(
            to,
            b"PUT /e HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\nbody",
        )
        .await;
    assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
    assert_eq!(app.last().body, "body");
}

/// Whoever speaks what: it is the client that is gone, and no upstream is at fault.
#[tokio::test]
async fn an_upload_that_an_http2_client_gives_up_is_recorded_as_such() {
    for port in [HTTP, H2C] {
        let mesh = Mesh::new();
        let (_, backend) = mesh.bare_service(1, "web");
        let to = mesh.service_with_port(1, "web", port);
        let app = App::http(backend, "web").await;
        let (waypoint, client) = mesh.started().await;
        let tunnel = client.tunnel(to).await;
        let (client, driver) = h2::client::handshake(tunnel).await.unwrap();
        tokio::spawn(driver);
        let mut client = client.ready().await.unwrap();
        let request = Request::post("http://web/given-up").body(()).unwrap();
        let (answer, mut send) = client.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"half"), false).unwrap();
        until("the upload's beginning", async || {
            (app.connections() > 0).then_some(())
        })
        .await;
        send.send_reset(h2::Reason::CANCEL);
        drop((answer, send));
        let line = waypoint.until_logged("/given-up").await;
        let told = " 0 DC downstream_remote_disconnect ";
        assert!(line.contains(told), "{port}: {line}");
    }
}
