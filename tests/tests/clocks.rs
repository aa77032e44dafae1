//! Time limits: when their clocks start, what they span, and what ends them. The right lines are real Envoy's
//! (`make test-envoy` plays the same exchanges with it).

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use waypoint_tests::{Mesh, clocks};

#[tokio::test]
async fn a_routes_limits_count_from_the_requests_end_to_the_answers() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "web-1", "web", false);
    let attempts = clocks::backend(SocketAddr::new(mesh.pod_ip(1), 8080), false).await;
    let to = mesh.service(1, "web");
    mesh.manifest("route.yaml", clocks::RULES);
    let waypoint = mesh.start().await;
    assert_eq!(waypoint.problems().await.trim(), "");
    let client = mesh.client(&waypoint, "default", "curl").await;
    clocks::play_all(&client, to, || waypoint.log()).await;
    clocks::assert_told(&attempts);
}
