//! An HTTP/2 endpoint that is going away (GOAWAY): which requests it has looked at, and what becomes of the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use envoy_types::pb::envoy::config::route::v3::RouteAction;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_config::resource::Resource;
use waypoint_tests::app::App;
use waypoint_tests::attack::frames::{
    END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, SETTINGS, block, frame,
};
use waypoint_tests::balancing::routes;
use waypoint_tests::{ControlPlane, Mesh, Ztunnel};

use super::envoy_beside;

const NO_ERROR: u32 = 0;

/// An application that leaves with the first request of its first connections, which it hasn't looked at.
#[derive(Clone)]
struct Leaving {
    connections: Arc<AtomicUsize>,
    leaves: usize,
    address: SocketAddr,
}

impl Leaving {
    /// `leaves`: so many connections.
    async fn start(mesh: &Mesh, leaves: usize) -> Leaving {
        mesh.describe_pod(1, "web-1-1", "web-1", false);
        let port = "{name: http2, port: 80, targetPort: 8080}";
        let leaving = Leaving {
            connections: Arc::default(),
            leaves,
            address: mesh.service_with_port(1, "web-1", port),
        };
        let owned = leaving.clone();
        let serve = move |tcp| {
            let before = owned.connections.fetch_add(1, Ordering::Relaxed);
            let leaves = before < owned.leaves;
            async move { _ = serve(tcp, leaves).await }
        };
        App::tcp(mesh.backend(1), serve).await;
        leaving
    }
}

async fn serve(mut tcp: TcpStream, leaves: bool) -> std::io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    tcp.read_exact(&mut preface).await?;
    tcp.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        tcp.read_exact(&mut vec![0; length as usize]).await?;
        match head[3] {
            SETTINGS if head[4] == 0 => tcp.write_all(&frame(SETTINGS, 1, 0, &[])).await?,
            HEADERS if leaves => {
                let last_stream_and_code = [0, NO_ERROR].map(u32::to_be_bytes).concat();
                tcp.write_all(&frame(GOAWAY, 0, 0, &last_stream_and_code))
                    .await?;
            }
            HEADERS => {
                let answer = block(&[(":status", "200")]);
                let flags = END_HEADERS | END_STREAM;
                tcp.write_all(&frame(HEADERS, flags, stream, &answer))
                    .await?;
            }
            _ => {}
        }
    }
}

async fn post(client: &Ztunnel, to: SocketAddr) -> (u16, String) {
    let request = Request::post("/x").header("host", "web");
    let answer = client
        .request(to, request.body(Full::from("body")).unwrap())
        .await;
    (answer.status.as_u16(), answer.text())
}

/// As istiod has it, but for the retries.
fn unretried(mesh: &Mesh) -> Vec<Resource> {
    let mut resources = mesh.resources();
    routes(&mut resources, "web-1", |route: &mut RouteAction| {
        route.retry_policy = None;
    });
    resources
}

#[tokio::test]
async fn a_request_that_a_leaving_endpoint_has_not_looked_at_is_asked_again() {
    let mesh = Mesh::new();
    let web = Leaving::start(&mesh, 1).await;
    let (waypoint, client) = mesh.started().await;
    assert_eq!(post(&client, web.address).await, (200, String::new()));
    assert_eq!(web.connections.load(Ordering::Relaxed), 2);
    // The one that goes away is asked no more.
    assert_eq!(post(&client, web.address).await, (200, String::new()));
    assert_eq!(web.connections.load(Ordering::Relaxed), 2);
    waypoint.until_logged(" 200 ").await;
}

#[tokio::test]
async fn where_nothing_is_asked_again_it_was_refused() {
    let mesh = Mesh::new();
    let web = Leaving::start(&mesh, 1).await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(unretried(&mesh));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    let (status, told) = post(&client, web.address).await;
    assert_eq!(status, 503);
    assert!(
        told.ends_with("reset reason: remote refused stream reset"),
        "{told}"
    );
    waypoint
        .until_logged("503 UR upstream_reset_before_response_started{remote_refused_stream_reset}")
        .await;
    assert_eq!(post(&client, web.address).await.0, 200);
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn endpoints_that_leave_beside_envoy() {
    for retried in [true, false] {
        let mesh = Mesh::new();
        let web = Leaving::start(&mesh, 1).await;
        let resources = if retried {
            mesh.resources()
        } else {
            unretried(&mesh)
        };
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(resources.clone());
        let (_waypoint, ours) = mesh.started_under(&istiod).await;
        let ours = post(&ours, web.address).await;
        let begun = web.connections.swap(0, Ordering::Relaxed);
        let (_envoy, theirs) = envoy_beside(&mesh, &resources).await;
        let theirs = post(&theirs, web.address).await;
        assert_eq!(ours, theirs, "retried: {retried}");
        assert_eq!(web.connections.load(Ordering::Relaxed), begun);
    }
}
