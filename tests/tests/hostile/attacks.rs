//! Frames and requests that cost their sender little: each shape ends its own connection or shares with others, and a
//! second client is served meanwhile. Clients that only look like it are let be.
//!
//! `make attack` has the same shapes longer, with more connections, beside Envoy.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_proxy::run::RunOptions;
use waypoint_tests::attack::frames::{
    DATA, END_HEADERS, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, frame,
};
use waypoint_tests::attack::{Fate, Outcome, Place, Shape, Witness, attack, shapes};
use waypoint_tests::wait::within;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh, Waypoint};

const CONNECTIONS: usize = 4;
/// A flood is over long before, even where everything is slow.
const LENGTH: Duration = Duration::from_secs(30);
/// What goes on as long as it may.
const SHORT: Duration = Duration::from_secs(1);
/// A debug build on a busy machine.
const MEDIAN: Duration = Duration::from_millis(1500);

/// What the shapes are made for: requests that are denied are denied by it.
pub(super) const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-one-path, namespace: default}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  rules: [{to: [{operation: {paths: [/p/1]}}]}]
";

struct Scene {
    mesh: Mesh,
    to: SocketAddr,
    _app: App,
    waypoint: Waypoint,
}

async fn scene() -> Scene {
    scene_with(|_| {}).await
}

/// With a tenth of the budget: even where all is slow, it isn't spent slower than it comes back.
async fn strict_scene() -> Scene {
    scene_with(|options| options.limits.frames = 1_000).await
}

async fn scene_with(change: impl FnOnce(&mut RunOptions)) -> Scene {
    let mesh = Mesh::alone().await;
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest("policy.yaml", POLICY);
    let waypoint = mesh.start_with(change).await;
    Scene {
        mesh,
        to,
        _app: app,
        waypoint,
    }
}

impl Scene {
    /// Four connections of a shape beside a second client; how they ended.
    async fn play(&self, shape: &Shape, length: Duration) -> Vec<Outcome> {
        let client = self.mesh.client(&self.waypoint, "default", "second").await;
        let witness = Witness::start(client, self.to, "/p/1").await;
        let attackers: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (shape, to, via) = (*shape, self.to, self.waypoint.address());
                let certificate = self.mesh.certificate("default", "curl");
                tokio::spawn(async move { attack(&shape, via, &certificate, to, length).await })
            })
            .collect();
        let mut outcomes = Vec::new();
        for attacker in attackers {
            outcomes.push(attacker.await.unwrap().unwrap());
        }
        let seen = within("the second client", witness.finish()).await;
        assert!(seen.answers > 0, "{}", shape.name);
        assert!(seen.p50 < MEDIAN, "{}: {seen:?}", shape.name);
        outcomes
    }

    async fn floods(&self, place: Place, label: &str) {
        for shape in shapes().iter().filter(|shape| shape.place == place) {
            let Fate::Flooded(reason) = shape.fate else {
                continue;
            };
            let labels = [("connection", label), ("reason", reason)];
            let metric = "waypoint_connections_flooded_total";
            let before = self.waypoint.metric(metric, &labels).await;
            for outcome in self.play(shape, LENGTH).await {
                assert!(outcome.closed, "{}: {outcome:?}", shape.name);
                let goaway = outcome.goaway;
                assert_eq!(
                    goaway,
                    Some(ENHANCE_YOUR_CALM),
                    "{}: {outcome:?}",
                    shape.name
                );
            }
            let after = before + CONNECTIONS as f64;
            self.waypoint.until_metric(metric, &labels, after).await;
        }
        assert_eq!(
            self.waypoint.metric("waypoint_panics_total", &[]).await,
            0.0
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_do_no_work_end_their_hbone_connection() {
    scene().await.floods(Place::Hbone, "hbone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_do_no_work_end_their_tunnel() {
    scene().await.floods(Place::Tunnel, "tunnel").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_frames_and_resets_end_their_connection() {
    let scene = strict_scene().await;
    for shape in shapes().iter().filter(|shape| shape.fate == Fate::Ended) {
        for outcome in scene.play(shape, LENGTH).await {
            let told = outcome.closed && outcome.goaway == Some(ENHANCE_YOUR_CALM);
            assert!(told, "{:?}, {}: {outcome:?}", shape.place, shape.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_do_no_work_end_their_connection() {
    let scene = strict_scene().await;
    for shape in shapes().iter().filter(|shape| shape.fate == Fate::Wasteful) {
        let label = match shape.place {
            Place::Hbone => "hbone",
            _ => "tunnel",
        };
        let labels = [("connection", label), ("reason", "streams")];
        let metric = "waypoint_connections_flooded_total";
        for outcome in scene.play(shape, 3 * LENGTH).await {
            let told = outcome.closed && outcome.goaway == Some(ENHANCE_YOUR_CALM);
            assert!(told, "{:?}, {}: {outcome:?}", shape.place, shape.name);
        }
        let all = CONNECTIONS as f64;
        scene.waypoint.until_metric(metric, &labels, all).await;
    }
}

/// Many connections of one identity: each has a budget of its own, and all have to wait for each other. A stream that is
/// given up while it waits to begin is seen then, not when its turn comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_many_connections_reset_end_all_of_them_soon() {
    const MANY: usize = 50;
    let scene = scene().await;
    let resets = |shape: &&Shape| shape.name == "streams reset once accepted";
    for shape in shapes().iter().filter(resets) {
        let started = Instant::now();
        let attackers: Vec<_> = (0..MANY)
            .map(|_| {
                let (shape, to, via) = (*shape, scene.to, scene.waypoint.address());
                let certificate = scene.mesh.certificate("default", "curl");
                tokio::spawn(async move {
                    let outcome = attack(&shape, via, &certificate, to, LENGTH).await;
                    outcome.unwrap()
                })
            })
            .collect();
        for attacker in attackers {
            let outcome = attacker.await.unwrap();
            let told = outcome.closed && outcome.goaway == Some(ENHANCE_YOUR_CALM);
            assert!(told, "{:?}: {outcome:?}", shape.place);
            // Two portions are a round of streams.
            assert!(outcome.portions < 60, "{:?}: {outcome:?}", shape.place);
        }
        let took = started.elapsed();
        println!(
            "{:?}, {}: all closed after {took:?}",
            shape.place, shape.name
        );
        let client = scene.mesh.client(&scene.waypoint, "default", "curl").await;
        let answer = client.get(scene.to, "/p/1").await;
        assert_eq!(answer.status, http::StatusCode::OK);
    }
}

/// The same identity and as many connections, whose requests take too long now and then: all of them are given up at
/// once, and tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_many_connections_give_up_now_and_then_are_no_flood() {
    const MANY: usize = 30;
    let scene = scene().await;
    let mut connections = Vec::new();
    for _ in 0..MANY {
        let client = scene.mesh.client(&scene.waypoint, "default", "curl").await;
        connections.push((client.http2(scene.to).await, client));
    }
    for _ in 0..3 {
        let given_up = connections.iter().flat_map(|(connection, _)| {
            (0..20).map(|_| async {
                let slow = request(http::Method::GET, "/p/1", &[("x-delay-ms", "400")]);
                let _ =
                    tokio::time::timeout(Duration::from_millis(50), connection.start(slow)).await;
            })
        });
        futures_util::future::join_all(given_up).await;
        for (connection, _) in &connections {
            let answer = connection
                .clone()
                .send(waypoint_tests::ztunnel::get("/p/1"))
                .await;
            assert_eq!(answer.status, http::StatusCode::OK);
        }
    }
    let flooded = scene
        .waypoint
        .metric("waypoint_connections_flooded_total", &[]);
    assert_eq!(flooded.await, 0.0);
}

/// With a budget for 125 streams that do nothing: many tunnels for a request each, and requests that are answered with
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_tunnels_and_requests_are_no_flood() {
    let scene = strict_scene().await;
    let client = scene.mesh.client(&scene.waypoint, "default", "curl").await;
    for _ in 0..30 {
        let answers = (0..20).map(|_| client.get(scene.to, "/p/1"));
        for answer in futures_util::future::join_all(answers).await {
            assert_eq!(answer.status, http::StatusCode::OK);
        }
    }
    let connection = client.http2(scene.to).await;
    for _ in 0..30 {
        let answers = (0..20).map(|n| {
            let connection = connection.clone();
            let (method, path) = [
                (http::Method::HEAD, "/p/1"),
                (http::Method::GET, "/p/1"),
                (http::Method::GET, "/denied"),
            ][n % 3]
                .clone();
            async move { connection.send(request(method, path, &[])).await }
        });
        for answer in futures_util::future::join_all(answers).await {
            assert!([200, 403].contains(&answer.status.as_u16()));
        }
    }
    let flooded = scene
        .waypoint
        .metric("waypoint_connections_flooded_total", &[]);
    assert_eq!(flooded.await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_without_end_leaves_others_their_turn() {
    let scene = scene().await;
    for shape in shapes().iter().filter(|shape| shape.fate == Fate::Shared) {
        for outcome in scene.play(shape, SHORT).await {
            assert!(outcome.portions > 1, "{}: {outcome:?}", shape.name);
        }
    }
    let flooded = scene
        .waypoint
        .metric("waypoint_connections_flooded_total", &[]);
    assert_eq!(flooded.await, 0.0);
}

/// Answers each request with its own body, as it comes.
async fn echo(address: SocketAddr) {
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| async {
                Ok::<_, Infallible>(http::Response::new(request.into_body()))
            });
            let serving = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(serving.serve_connection(TokioIo::new(tcp), service));
        }
    });
}

/// What a gRPC client may do at worst: for each small message two WINDOW_UPDATEs, and a PING to measure the bandwidth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_small_messages_is_no_flood() {
    small_messages(15_000, Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make attack"]
async fn attack_a_long_stream_of_small_messages_is_no_flood() {
    small_messages(1_000_000, Duration::from_secs(300)).await;
}

async fn small_messages(messages: usize, length: Duration) {
    const MESSAGE: [u8; 12] = [7; 12];
    let mesh = Mesh::alone().await;
    mesh.describe_pod(1, "echo-1", "echo", false);
    echo(SocketAddr::new(mesh.pod_ip(1), 8080)).await;
    let to = mesh.service_with_port(1, "echo", "{name: grpc, port: 80, targetPort: 8080}");
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let (mut read, mut write) = tokio::io::split(client.tunnel(to).await);
    let head = block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "echo"),
        (":path", "/echo.Echo/Stream"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]);
    let begin = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &head),
        // As many are on their way at a time.
        &frame(DATA, 0, 1, &MESSAGE).repeat(20),
    ];
    write.write_all(&begin.concat()).await.unwrap();
    let talk = async {
        let (mut echoed, mut head) = (0, [0; 9]);
        while echoed < messages * MESSAGE.len() {
            read.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            read.read_exact(&mut payload).await.unwrap();
            assert!(![GOAWAY, RST_STREAM].contains(&head[3]), "{payload:?}");
            if head[3] == DATA && length > 0 {
                echoed += payload.len();
                let update = |stream| frame(WINDOW_UPDATE, 0, stream, &length.to_be_bytes());
                let next = [
                    frame(DATA, 0, 1, &MESSAGE),
                    update(0),
                    update(1),
                    frame(PING, 0, 0, &[1; 8]),
                ];
                write.write_all(&next.concat()).await.unwrap();
            }
        }
    };
    let ended = tokio::time::timeout(length, talk).await;
    assert!(ended.is_ok(), "the messages came to no end");
    let flooded = waypoint.metric("waypoint_connections_flooded_total", &[]);
    assert_eq!(flooded.await, 0.0);
}

/// As a service whose own client goes away does: all at once, again and again with work in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_cancelled_between_others_are_no_flood() {
    let scene = scene().await;
    let client = scene.mesh.client(&scene.waypoint, "default", "curl").await;
    for _ in 0..10 {
        let mut tunnels = Vec::new();
        for _ in 0..90 {
            tunnels.push(client.tunnel(scene.to).await);
        }
        drop(tunnels);
        let answer = client.get(scene.to, "/p/1").await;
        assert_eq!(answer.status, http::StatusCode::OK);
    }
    let flooded = scene
        .waypoint
        .metric("waypoint_connections_flooded_total", &[]);
    assert_eq!(flooded.await, 0.0);
}
