//! Upgrades over HTTP/2 beside Envoy.

use http::StatusCode;
use waypoint_tests::extended_connect::{application, ask, resources};
use waypoint_tests::{Mesh, Ztunnel};

use crate::beside::envoy_with;

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn a_websocket_over_http2_reaches_applications_of_both_versions() {
    let mesh = Mesh::new();
    let (old, _app) = mesh.http_service(1, "old").await;
    mesh.describe_pod(2, "new-1", "new", false);
    let port = "{name: http2, port: 80, targetPort: 8080}";
    let new = mesh.service_with_port(2, "new", port);
    application(mesh.backend(2)).await;
    let (_envoy, address) = envoy_with(&mesh, &resources(&mesh)).await;
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect(address, &certificate).await.unwrap();
    for to in [old, new] {
        let answer = ask(&client, to, "websocket").await;
        assert_eq!(answer, (StatusCode::OK, "abc".to_owned()), "{to}");
        assert_eq!(
            ask(&client, to, "other").await.0,
            StatusCode::FORBIDDEN,
            "{to}"
        );
    }
}
