//! Upgrades over HTTP/2 (RFC 8441), where the configuration lets them in.

use http::StatusCode;
use waypoint_tests::extended_connect::{application, ask, resources};
use waypoint_tests::{ControlPlane, Mesh};

#[tokio::test]
async fn a_websocket_over_http2_reaches_applications_of_both_versions() {
    let mesh = Mesh::new();
    let (old, _app) = mesh.http_service(1, "old").await;
    mesh.describe_pod(2, "new-1", "new", false);
    let port = "{name: http2, port: 80, targetPort: 8080}";
    let new = mesh.service_with_port(2, "new", port);
    application(mesh.backend(2)).await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources(&mesh));
    let waypoint = mesh.start_under(&istiod).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    for to in [old, new] {
        let answer = ask(&client, to, "websocket").await;
        assert_eq!(answer, (StatusCode::OK, "abc".to_owned()), "{to}");
        assert_eq!(
            ask(&client, to, "other").await.0,
            StatusCode::FORBIDDEN,
            "{to}"
        );
    }
    waypoint.until_logged("\"GET /socket HTTP/2\" 101").await;
    // And one of HTTP/1.1 goes on over HTTP/2.
    let upgrade =
        b"GET /socket HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let answer = client.raw(new, upgrade).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}
