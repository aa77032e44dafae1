//! Ends of clients' connections by their own limits. The right lines are real Envoy's (`make test-envoy` plays the same
//! with it).

use waypoint_tests::connection_ends::{
    LIMITS, Limit, hbone_resources, play_all, play_hbone, play_silence, resources,
};
use waypoint_tests::{ControlPlane, Mesh};

#[tokio::test]
async fn connections_end_by_their_age_their_requests_and_idleness() {
    for limit in LIMITS {
        let mesh = Mesh::new();
        let (to, _app) = mesh.http_service(1, "web").await;
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(resources(&mesh, limit));
        let waypoint = mesh.start_under(&istiod).await;
        let client = mesh.client(&waypoint, "default", "curl").await;
        play_all(&client, to, limit).await;
        if limit == Limit::Idle {
            play_silence(&client, to).await;
        }
    }
}

#[tokio::test]
async fn an_hbone_connection_that_is_old_takes_no_new_tunnel() {
    for limit in [Limit::Age, Limit::Requests] {
        let mesh = Mesh::new();
        let (to, _app) = mesh.http_service(1, "web").await;
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(hbone_resources(&mesh, limit));
        let waypoint = mesh.start_under(&istiod).await;
        let client = mesh.client(&waypoint, "default", "curl").await;
        play_hbone(&client, to).await;
    }
}
