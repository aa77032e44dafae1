//! HTTP/2 endpoints that allow few streams at a time on a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use tokio::net::TcpStream;
use waypoint_tests::app::App;
use waypoint_tests::wait::within;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{Mesh, Ztunnel};

use super::envoy_beside;

const ALLOWED: u32 = 2;
const STREAMS: usize = 5;

/// A service whose answers begin at once and never end.
async fn watched(mesh: &Mesh) -> (SocketAddr, Arc<AtomicUsize>) {
    mesh.describe_pod(1, "web-1-1", "web-1", false);
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    App::tcp(mesh.backend(1), move |tcp| {
        counted.fetch_add(1, Ordering::Relaxed);
        serve(tcp)
    })
    .await;
    let port = "{name: grpc, port: 80, targetPort: 8080}";
    (mesh.service_with_port(1, "web-1", port), connections)
}

async fn serve(tcp: TcpStream) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(ALLOWED);
    let Ok(mut connection) = builder.handshake::<_, bytes::Bytes>(tcp).await else {
        return;
    };
    let mut open = Vec::new();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        open.push(respond.send_response(Response::new(()), false).unwrap());
    }
}

/// One after the other begins, and none of them ends.
async fn watch(client: &Ztunnel, to: SocketAddr) {
    let connection = client.http2(to).await;
    let mut open = Vec::new();
    for n in 0..STREAMS {
        let answer = within("the head of an answer", connection.start(get("/watch"))).await;
        open.push(answer.unwrap_or_else(|error| panic!("{n}: {error}")));
    }
}

#[tokio::test]
async fn what_a_connection_may_not_carry_goes_on_another() {
    let mesh = Mesh::new();
    let (to, connections) = watched(&mesh).await;
    let (_waypoint, client) = mesh.started().await;
    watch(&client, to).await;
    assert_eq!(connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn few_streams_at_a_time_beside_envoy() {
    let mesh = Mesh::new();
    let (to, connections) = watched(&mesh).await;
    let (_envoy, client) = envoy_beside(&mesh, &mesh.resources()).await;
    watch(&client, to).await;
    assert_eq!(connections.load(Ordering::Relaxed), 3);
}
