//! Ends of clients' connections beside Envoy.

use waypoint_tests::connection_ends::{
    LIMITS, Limit, hbone_resources, play_all, play_hbone, resources,
};
use waypoint_tests::{Mesh, Ztunnel};

use crate::beside::envoy_with;

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn connections_end_as_envoy_ends_them() {
    for limit in LIMITS {
        let mesh = Mesh::new();
        let (to, _app) = mesh.http_service(1, "web").await;
        let (_envoy, address) = envoy_with(&mesh, &resources(&mesh, limit)).await;
        let certificate = mesh.certificate("default", "curl");
        let client = Ztunnel::connect(address, &certificate).await.unwrap();
        play_all(&client, to, limit).await;
    }
}

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn an_hbone_connection_that_is_old_takes_no_new_tunnel() {
    for limit in [Limit::Age, Limit::Requests] {
        let mesh = Mesh::new();
        let (to, _app) = mesh.http_service(1, "web").await;
        let (_envoy, address) = envoy_with(&mesh, &hbone_resources(&mesh, limit)).await;
        let certificate = mesh.certificate("default", "curl");
        let client = Ztunnel::connect(address, &certificate).await.unwrap();
        play_hbone(&client, to).await;
    }
}
