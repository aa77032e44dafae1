//! Bodies and streams of any size in bounded memory: a reader that stops stops its sender, and only that.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::get;
use waypoint_tests::{App, Mesh, Waypoint, Ztunnel};

/// More than all sockets and windows on the way hold together.
const MUCH: usize = 64 << 20;
/// What sockets and windows on the way may hold.
const HELD: usize = 24 << 20;
static CHUNK: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// Bytes that passed somewhere.
#[derive(Clone, Default)]
struct Meter(Arc<AtomicUsize>);

impl Meter {
    fn add(&self, n: usize) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits until nothing moves any more.
    async fn stands_still(&self) -> usize {
        let mut before = 0;
        until("a standstill", async || {
            tokio::time::sleep(Duration::from_millis(150)).await;
            let now = self.get();
            let still = now == before && now > 0;
            before = now;
            still.then_some(now)
        })
        .await
    }
}

async fn pour(to: &mut (impl AsyncWrite + Unpin), meter: &Meter) {
    while meter.get() < MUCH && to.write_all(&CHUNK).await.is_ok() {
        meter.add(CHUNK.len());
    }
}

async fn drain(from: &mut (impl AsyncRead + Unpin), meter: &Meter) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            break;
        }
        meter.add(n);
    }
}

async fn read_head(from: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match from.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

struct Scene {
    mesh: Mesh,
    /// A backend that sends [`MUCH`], or takes it once told to.
    to: SocketAddr,
    /// An ordinary one.
    other: SocketAddr,
    sent: Meter,
    received: Meter,
    go: watch::Sender<bool>,
    waypoint: Waypoint,
    client: Ztunnel,
}

/// `tcp`: the port speaks no HTTP. `captured`: behind a ztunnel.
async fn scene(tcp: bool, captured: bool) -> Scene {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "much-1", "much", captured);
    let (sent, received) = (Meter::default(), Meter::default());
    let (go, gone) = watch::channel(false);
    let meters = (sent.clone(), received.clone());
    App::tcp(mesh.backend(1), move |mut stream| {
        let ((sent, received), mut go) = (meters.clone(), gone.clone());
        async move {
            let head = read_head(&mut stream).await;
            if head.starts_with("GET") {
                if !tcp {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {MUCH}\r\n\r\n");
                    let _ = stream.write_all(head.as_bytes()).await;
                }
                pour(&mut stream, &sent).await;
                let _ = stream.shutdown().await;
            } else {
                let _ = go.wait_for(|go| *go).await;
                let mut body = (&mut stream).take(MUCH as u64);
                drain(&mut body, &received).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
        }
    })
    .await;
    if captured {
        PodZtunnel::start(mesh.pod_ip(1), &mesh.certificate("default", "much")).await;
    }
    let name = if tcp { "tcp" } else { "http" };
    let port = format!("{{name: {name}, port: 80, targetPort: 8080}}");
    let to = mesh.service_with_port(1, "much", &port);
    let (other, _) = mesh.http_service(2, "other").await;
    let (waypoint, client) = mesh.started().await;
    Scene {
        mesh,
        to,
        other,
        sent,
        received,
        go,
        waypoint,
        client,
    }
}

impl Scene {
    /// Others on the same HBONE connection aren't held up.
    async fn others_go_on(&self) {
        for _ in 0..5 {
            let answer = self.client.get(self.other, "/other").await;
            assert_eq!(answer.status, StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_backend() {
    for (tcp, captured) in [(false, false), (false, true), (true, false), (true, true)] {
        let what = format!("tcp: {tcp}, captured: {captured}");
        let scene = scene(tcp, captured).await;
        let mut stream = scene.client.tunnel(scene.to).await;
        stream
            .write_all(b"GET /much HTTP/1.1\r\nhost: much\r\n\r\n")
            .await
            .unwrap();
        let held = scene.sent.stands_still().await;
        assert!(held < HELD, "{what}: {held} bytes are somewhere");
        scene.others_go_on().await;
        assert_eq!(scene.sent.get(), held, "{what}: nobody read");

        if !tcp {
            let head = read_head(&mut stream).await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{what}: {head}");
        }
        let got = Meter::default();
        let mut body = (&mut stream).take(MUCH as u64);
        within("the rest", drain(&mut body, &got)).await;
        assert_eq!(got.get(), MUCH, "{what}");
    }
}

async fn upload(mut stream: HboneStream, tcp: bool, meter: Meter) -> HboneStream {
    let head = if tcp {
        "PUT\r\n\r\n".to_owned()
    } else {
        format!("PUT /much HTTP/1.1\r\nhost: much\r\ncontent-length: {MUCH}\r\n\r\n")
    };
    stream.write_all(head.as_bytes()).await.unwrap();
    pour(&mut stream, &meter).await;
    stream
}

#[tokio::test]
async fn a_backend_that_stops_reading_stops_the_client() {
    for (tcp, captured) in [(false, false), (false, true), (true, false), (true, true)] {
        let what = format!("tcp: {tcp}, captured: {captured}");
        let scene = scene(tcp, captured).await;
        let meter = Meter::default();
        let stream = scene.client.tunnel(scene.to).await;
        let sending = tokio::spawn(upload(stream, tcp, meter.clone()));
        let held = meter.stands_still().await;
        assert!(held < HELD, "{what}: {held} bytes are somewhere");
        scene.others_go_on().await;
        assert_eq!(meter.get(), held, "{what}: nobody read");

        scene.go.send(true).unwrap();
        let mut stream = within("the rest", sending).await.unwrap();
        let head = within("the answer", read_head(&mut stream)).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{what}: {head}");
        assert_eq!(scene.received.get(), MUCH, "{what}");
    }
}

#[tokio::test]
async fn a_stalled_answer_holds_up_no_other_stream_of_its_connection() {
    let scene = scene(false, false).await;
    let connection = scene.client.http2(scene.to).await;
    let stalled = connection.start(get("/much")).await.unwrap();
    let held = scene.sent.stands_still().await;
    assert!(held < HELD, "{held} bytes are somewhere");
    // Another stream of the same inner connection.
    let before = scene.sent.get();
    let second = connection.start(get("/again")).await.unwrap();
    let mut body = second.into_body();
    let frame = within("a frame of the second", body.frame()).await;
    assert!(frame.unwrap().unwrap().is_data());
    assert!(scene.sent.get() > before);
    drop(stalled);
}

#[tokio::test]
async fn stalled_tunnels_are_many_and_the_rest_of_the_connection_lives() {
    let scene = scene(false, false).await;
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut stream = scene.client.tunnel(scene.to).await;
        stream
            .write_all(b"GET /much HTTP/1.1\r\nhost: much\r\n\r\n")
            .await
            .unwrap();
        stalled.push(stream);
    }
    scene.sent.stands_still().await;
    // Another connection, whatever became of the windows of this one.
    let second = scene.mesh.client(&scene.waypoint, "default", "curl").await;
    let answer = second.get(scene.other, "/other").await;
    assert_eq!(answer.status, StatusCode::OK);
    // They go, and leave their windows behind.
    drop(stalled);
    scene.others_go_on().await;
}
