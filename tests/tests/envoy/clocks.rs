//! Time beside Envoy: limits, peers that are silent, heads that are late, answers that break off.

use waypoint_tests::Mesh;
use waypoint_tests::circuit_breakers::{NONE, limited};
use waypoint_tests::ztunnel::Ztunnel;
use waypoint_tests::{broken_answers, clocks, keepalives, late_heads, pending};

use crate::beside::{envoy_beside, envoy_with};

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn time_limits_count_as_envoy_counts_them() {
    for http2 in [false, true] {
        let mesh = Mesh::new();
        let (to, attempts) = clocks::service(&mesh, http2).await;
        let (envoy, address) = envoy_beside(&mesh).await;
        let certificate = mesh.certificate("default", "curl");
        let client = Ztunnel::connect(address, &certificate).await.unwrap();
        clocks::play_all(&client, to, || envoy.log()).await;
        clocks::assert_told(&attempts);
    }
}

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn idle_attempts_end_as_with_envoy() {
    let mesh = Mesh::new();
    let (to, _attempts) = clocks::service(&mesh, false).await;
    let (envoy, address) = envoy_with(&mesh, &clocks::idle(&mesh)).await;
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect(address, &certificate).await.unwrap();
    clocks::play_idle(&client, to, || envoy.log()).await;
}

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn time_limits_of_requests_that_wait_count_as_envoy_counts_them() {
    let mesh = Mesh::new();
    let (to, attempts) = clocks::service(&mesh, false).await;
    let resources = limited(&mesh, [1, NONE, NONE, NONE]);
    let (envoy, address) = envoy_with(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect(address, &certificate).await.unwrap();
    pending::play_all(&client, to, &attempts, || envoy.log()).await;
}

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn silent_peers_are_ended_as_envoy_ends_them() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let (_envoy, address) = envoy_with(&mesh, &keepalives::resources(&mesh)).await;
    keepalives::play_all(address, to, &mesh.certificate("default", "curl")).await;
}

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn late_heads_are_answered_as_envoy_answers_them() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let (envoy, address) = envoy_with(&mesh, &late_heads::resources(&mesh)).await;
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect(address, &certificate).await.unwrap();
    late_heads::play_all(&client, to, || envoy.log()).await;
}

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn answers_that_break_off_arrive_as_far_as_they_came() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    broken_answers::backend(backend).await;
    let (envoy, address) = envoy_beside(&mesh).await;
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect(address, &certificate).await.unwrap();
    broken_answers::play(&client, to, || envoy.log()).await;
}
