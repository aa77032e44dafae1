//! Bytes of heads and on the wire: what Envoy counts of HTTP/1 is what both far ends see.

use std::net::SocketAddr;

use waypoint_tests::envoy::Envoy;
use waypoint_tests::{Mesh, Recorder, Ztunnel, wire_bytes};

#[tokio::test]
#[ignore = "needs Envoy"]
async fn envoy_counts_what_the_far_ends_see() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "web-1", "web", false);
    let recorder = Recorder::start(SocketAddr::new(mesh.pod_ip(1), 8080)).await;
    let to = mesh.service(1, "web");
    mesh.access_log_format(&wire_bytes::format());
    let (envoy, address) = Envoy::beside(&mesh, &mesh.resources()).await;
    let certificate = mesh.certificate("default", "curl");
    let ztunnel = Ztunnel::connect(address, &certificate).await.unwrap();
    let differences = wire_bytes::play(&ztunnel, to, &recorder, || envoy.log()).await;
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
