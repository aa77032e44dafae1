//! Peers that ask for too much: floods of streams, headers, tunnels. Each costs its own connection at most, and others
//! are served meanwhile. Frames that do no work: `attacks.rs`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use h2::Reason;
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use waypoint_tests::attack::frames::{
    CONTINUATION, END_HEADERS, HEADERS, PREFACE, SETTINGS, block, frame, literal, reset,
};
use waypoint_tests::pod_ztunnel::{Behaviour, PodZtunnel};
use waypoint_tests::wait::within;
use waypoint_tests::ztunnel::{get, request, tls};
use waypoint_tests::{App, Mesh, Waypoint};

fn connect(to: SocketAddr) -> Vec<u8> {
    block(&[(":method", "CONNECT"), (":authority", &to.to_string())])
}

struct Scene {
    mesh: Mesh,
    to: SocketAddr,
    app: App,
    waypoint: Waypoint,
}

async fn scene() -> Scene {
    let mesh = Mesh::alone().await;
    let (to, app) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    Scene {
        mesh,
        to,
        app,
        waypoint,
    }
}

impl Scene {
    /// A connection on which frames are written by hand.
    async fn attacker(&self) -> TlsStream<TcpStream> {
        let certificate = self.mesh.certificate("default", "curl");
        let mut tls = tls(self.waypoint.address(), Some(&certificate), &[b"h2"])
            .await
            .unwrap();
        tls.write_all(PREFACE).await.unwrap();
        tls.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        tls
    }

    async fn assert_fine(&self) {
        let client = self.mesh.client(&self.waypoint, "default", "curl").await;
        let answer = client.get(self.to, "/still-here").await;
        assert_eq!(answer.status, StatusCode::OK);
        let metrics = self.waypoint.metrics().await;
        assert!(metrics.contains("waypoint_panics_total 0"));
    }
}

/// Writes while the other side takes it, at most `times`; how often it did.
async fn flood(
    tls: TlsStream<TcpStream>,
    times: usize,
    mut bytes: impl FnMut(usize) -> Vec<u8>,
) -> usize {
    let (mut read, mut write) = tokio::io::split(tls);
    let reader = tokio::spawn(async move {
        let mut sink = vec![0; 64 * 1024];
        while read.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    });
    let deadline = Instant::now() + Duration::from_secs(8);
    let mut sent = 0;
    while sent < times && Instant::now() < deadline && !reader.is_finished() {
        let bytes = bytes(sent);
        let written = tokio::time::timeout(Duration::from_secs(2), write.write_all(&bytes));
        if !matches!(written.await, Ok(Ok(()))) {
            break;
        }
        sent += 1;
        if sent % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    reader.abort();
    sent
}

#[tokio::test]
async fn headers_without_end_end_the_connection() {
    let scene = scene().await;
    let mut tls = scene.attacker().await;
    let begin = frame(HEADERS, 0, 1, &connect(scene.to));
    tls.write_all(&begin).await.unwrap();
    // 400 MB of one request's head.
    let filler = literal("x", &"a".repeat(100)).repeat(150);
    let more = frame(CONTINUATION, 0, 1, &filler);
    let sent = flood(tls, 25_000, |_| more.clone()).await;
    assert!(sent < 2_000, "{sent} frames of a head were taken");
    scene.assert_fine().await;
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_end_the_connection() {
    let scene = scene().await;
    let tls = scene.attacker().await;
    let block = connect(scene.to);
    // More than sockets take for one that reads slowly.
    let sent = flood(tls, 600_000, |n| {
        let stream = (2 * n + 1) as u32;
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &block);
        bytes.extend(reset(stream));
        bytes
    })
    .await;
    assert!(sent < 300_000, "{sent} streams were opened and reset");
    scene.assert_fine().await;
    assert!(scene.app.seen().len() < 5);
}

#[tokio::test]
async fn nine_hundred_open_tunnels_leave_room_for_more() {
    let scene = scene().await;
    let client = scene.mesh.client(&scene.waypoint, "default", "curl").await;
    let mut tunnels = Vec::new();
    for _ in 0..90 {
        tunnels.push(client.tunnel(scene.to).await);
    }
    // More connections, as clients that are many have.
    let others = (0..9).map(|_| async {
        let client = scene.mesh.client(&scene.waypoint, "default", "curl").await;
        let mut tunnels = Vec::new();
        for _ in 0..90 {
            tunnels.push(client.tunnel(scene.to).await);
        }
        (client, tunnels)
    });
    let others = futures_util::future::join_all(others).await;
    scene.assert_fine().await;
    drop((tunnels, others));
    scene.assert_fine().await;
}

#[tokio::test]
async fn requests_that_are_reset_cost_the_backend_little() {
    let scene = scene().await;
    let client = scene.mesh.client(&scene.waypoint, "default", "curl").await;
    let connection = client.http2(scene.to).await;
    for _ in 0..300 {
        let started = connection.start(request(Method::GET, "/r", &[("x-delay-ms", "300")]));
        // Dropped: RST_STREAM.
        let _ = tokio::time::timeout(Duration::from_millis(1), started).await;
    }
    let fresh = client.http2(scene.to).await;
    assert_eq!(fresh.send(get("/after")).await.status, StatusCode::OK);
    scene.assert_fine().await;
    // All that reached the backend is over, and recorded.
    waypoint_tests::wait::until("the records", async || {
        let recorded = scene.waypoint.metric("istio_requests_total", &[]).await;
        (recorded >= scene.app.seen().len() as f64).then_some(())
    })
    .await;
}

#[tokio::test]
async fn tunnels_that_are_reset_give_back_what_they_held() {
    let scene = scene().await;
    let client = scene.mesh.client(&scene.waypoint, "default", "curl").await;
    for n in 0..400 {
        let mut stream = client.tunnel(scene.to).await;
        if n % 2 == 0 {
            let _ = stream
                .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab")
                .await;
        }
        if n % 3 == 0 {
            stream.reset(Reason::CANCEL);
        }
    }
    scene.assert_fine().await;
    let answer = client.get(scene.to, "/same-connection").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_pod_that_never_finishes_its_handshake_fails_alone() {
    let scene = scene().await;
    scene.mesh.describe_pod(2, "mute-1", "mute", true);
    let mute = TcpListener::bind((scene.mesh.pod_ip(2), 15008))
        .await
        .unwrap();
    let accepting = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((tcp, _)) = mute.accept().await {
            held.push(tcp);
        }
    });
    let to = scene.mesh.service(2, "mute");
    let client = scene.mesh.client(&scene.waypoint, "default", "curl").await;
    waypoint_tests::wait::until("the service", async || {
        let sent = client.connect_to(&to.to_string(), &[]).await;
        (sent.unwrap().0 == StatusCode::OK).then_some(())
    })
    .await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut stream = client.tunnel(to).await;
        let _ = stream
            .write_all(b"GET /mute HTTP/1.1\r\nhost: x\r\n\r\n")
            .await;
        waiting.push(stream);
    }
    for _ in 0..5 {
        let answer = within("an answer", client.get(scene.to, "/other")).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    drop(waiting);
    scene.waypoint.until_logged("/mute").await;
    accepting.abort();
}

/// The other side: the ztunnel of a pod floods the connection that the waypoint has to it.
#[tokio::test]
async fn a_server_that_floods_is_cut_off_and_what_it_had_no_part_of_goes_on() {
    let mesh = Mesh::new();
    let (to, app, ztunnel) = mesh.captured_service(1, "web").await;
    let (other, _app) = mesh.http_service(2, "other").await;
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let labels = [("connection", "upstream"), ("reason", "window_update")];
    let metric = "waypoint_connections_flooded_total";

    // Nothing was sent through a tunnel yet: it is tried on another connection.
    ztunnel.behave(Behaviour::FloodOnce);
    let posted = || request(Method::POST, "/once", &[]);
    let answer = client.http1(to).await.send(posted()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    waypoint.until_metric(metric, &labels, 1.0).await;
    assert_eq!(ztunnel.connections(), 2);
    assert_eq!(app.seen().len(), 1, "it was asked once");

    // A server that does nothing else.
    mesh.describe_pod(3, "hostile-1", "hostile", true);
    let hostile = PodZtunnel::start(mesh.pod_ip(3), &mesh.certificate("default", "hostile")).await;
    hostile.behave(Behaviour::Flood);
    let bad = mesh.service(3, "hostile");
    waypoint_tests::wait::until("the service", async || {
        let sent = client.connect_to(&bad.to_string(), &[]).await;
        (sent.unwrap().0 == StatusCode::OK).then_some(())
    })
    .await;
    let answer = client.get(bad, "/hostile").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let line = waypoint.until_logged("/hostile").await;
    assert!(
        line.contains(" 503 ") && line.contains("was_cut_off"),
        "{line}"
    );
    assert!(hostile.connections() > 1, "it was tried again");

    // What went through a tunnel isn't sent twice.
    hostile.behave(Behaviour::FloodLater);
    let before = hostile.connections();
    let lost = request(Method::POST, "/lost", &[]);
    let answer = client.http1(bad).await.send(lost).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(hostile.connections(), before + 1);
    let line = waypoint.until_logged("/lost").await;
    assert!(line.contains(" 503 UC "), "{line}");

    for to in [to, other] {
        let answer = client.get(to, "/after").await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    let panics = waypoint.metric("waypoint_panics_total", &[]).await;
    assert_eq!(panics, 0.0);
}

#[tokio::test]
async fn own_ports_and_link_local_addresses_stay_closed_whoever_owns_them() {
    let scene = scene().await;
    let own = scene.waypoint.address();
    // A pod and services of ours claim them.
    scene.mesh.describe_pod(254, "self", "self", false);
    scene.mesh.manifest(
        "claims.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: metadata, namespace: default}\n\
         spec: {clusterIP: 169.254.169.254, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: later, namespace: default}\n\
         spec: {clusterIP: 10.98.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}\n",
    );
    let client = scene.mesh.client(&scene.waypoint, "default", "curl").await;
    waypoint_tests::wait::until("the services", async || {
        let sent = client.connect_to("10.98.0.1:80", &[]).await;
        (sent.unwrap().0 == StatusCode::OK).then_some(())
    })
    .await;
    // The claim on the pod's address is good for other ports.
    let other = format!("{}:8080", own.ip());
    let (status, _) = client.connect_to(&other, &[]).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{other}");
    for authority in [own.to_string(), "169.254.169.254:80".to_owned()] {
        let (status, _) = client.connect_to(&authority, &[]).await.unwrap();
        assert_eq!(status, StatusCode::NOT_FOUND, "{authority}");
    }
}
