//! Bounds on what the waypoint takes at a time: HBONE connections, and tunnels on each.

use http::StatusCode;
use waypoint_proxy::run::Limits;
use waypoint_tests::wait::{until, within};
use waypoint_tests::{Mesh, Ztunnel};

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_the_others_go_on() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let waypoint = mesh.start_with(|options| options.limits = limits).await;
    let first = mesh.client(&waypoint, "default", "curl").await;
    let second = mesh.client(&waypoint, "default", "curl").await;
    let certificate = mesh.certificate("default", "curl");
    let refused = Ztunnel::connect(waypoint.address(), &certificate);
    let refused = within("an end, not left waiting", refused).await;
    assert!(refused.is_err());
    let labels = [("reason", "limit")];
    let name = "waypoint_connections_refused_total";
    assert_eq!(waypoint.metric(name, &labels).await, 1.0);
    assert_eq!(
        waypoint.metric("waypoint_connections_active", &[]).await,
        2.0
    );
    for client in [&first, &second] {
        assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    }
    // A place that is given back is taken again.
    drop(first);
    waypoint
        .until_metric("waypoint_connections_active", &[], 1.0)
        .await;
    let third = until("a place", async || {
        Ztunnel::connect(waypoint.address(), &certificate)
            .await
            .ok()
    })
    .await;
    assert_eq!(third.get(to, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_setting_replaces_the_number_of_tunnels_that_configuration_allows() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (_waypoint, client) = mesh.started().await;
    assert_eq!(client.max_streams(), 100, "as istiod says");

    let limits = Limits {
        streams: Some(300),
        ..Limits::default()
    };
    let waypoint = mesh.start_with(|options| options.limits = limits).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    assert_eq!(client.max_streams(), 300);
    let mut open = Vec::new();
    for _ in 0..300 {
        open.push(client.tunnel(to).await);
    }
    drop(open);
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
}
