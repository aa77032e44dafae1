//! Requests that take too long, beside Envoy.

use waypoint_tests::stream_limits::{
    LIMITS, Limit, assert_grpc_told, play_all, resources, services,
};
use waypoint_tests::{Mesh, Ztunnel};

use crate::beside::envoy_with;

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn requests_that_take_too_long_are_answered_as_envoy_answers_them() {
    for limit in LIMITS {
        let mesh = Mesh::new();
        let (to, app, stalls) = services(&mesh).await;
        let (envoy, address) = envoy_with(&mesh, &resources(&mesh, limit)).await;
        let certificate = mesh.certificate("default", "curl");
        let client = Ztunnel::connect(address, &certificate).await.unwrap();
        play_all(&client, to, stalls, limit, || envoy.log()).await;
        if limit == Limit::RouteGrpc {
            assert_grpc_told(&app);
        }
    }
}
