//! Requests that take longer than their connection manager or their route allows. The right lines are real Envoy's
//! (`make test-envoy` plays the same with it).

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::managers::{self, INNER, millis};
use waypoint_tests::stream_limits::{
    LIMITS, Limit, assert_grpc_told, play_all, resources, services,
};
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{ControlPlane, Mesh};

#[tokio::test]
async fn requests_that_take_too_long_are_answered_or_reset() {
    for limit in LIMITS {
        let mesh = Mesh::new();
        let (to, app, stalls) = services(&mesh).await;
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(resources(&mesh, limit));
        let waypoint = mesh.start_under(&istiod).await;
        let client = mesh.client(&waypoint, "default", "curl").await;
        play_all(&client, to, stalls, limit, || waypoint.log()).await;
        if limit == Limit::RouteGrpc {
            assert_grpc_told(&app);
        }
    }
}

#[tokio::test]
async fn a_stream_of_http2_is_reset_alone() {
    let mesh = Mesh::new();
    let (to, _app, stalls) = services(&mesh).await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources(&mesh, Limit::Idle));
    let waypoint = mesh.start_under(&istiod).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let http2 = client.http2(stalls).await;
    let stalled = http2.start(get("/")).await.unwrap();
    let stalled = http_body_util::BodyExt::collect(stalled.into_body());
    assert!(within("the stalled answer's end", stalled).await.is_err());
    let http2 = client.http2(to).await;
    let slow = request(http::Method::GET, "/", &[("x-delay-ms", "5000")]);
    let slow = http2.send(slow).await;
    assert_eq!(slow.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(
        http2.send(get("/")).await.status,
        StatusCode::OK,
        "on the same connection"
    );
}

#[tokio::test]
async fn a_websocket_has_the_same_limits() {
    for (idle, line) in [
        (true, "101 SI stream_idle_timeout"),
        (false, "101 - max_duration_timeout"),
    ] {
        let mesh = Mesh::new();
        let (to, _app) = mesh.http_service(1, "web").await;
        let istiod = ControlPlane::start(&mesh).await;
        let mut resources = mesh.resources();
        managers::change(&mut resources, INNER, |manager| {
            if idle {
                manager.stream_idle_timeout = millis(1500);
            } else {
                let common = manager.common_http_protocol_options.get_or_insert_default();
                common.max_stream_duration = millis(1500);
            }
        });
        istiod.discovery.set(resources);
        let waypoint = mesh.start_under(&istiod).await;
        let client = mesh.client(&waypoint, "default", "curl").await;
        let mut socket = client.tunnel(to).await;
        let head = "GET /socket HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        let ended = async {
            let mut buffer = [0; 1024];
            while !matches!(socket.read(&mut buffer).await, Ok(0) | Err(_)) {}
        };
        within("the socket's end", ended).await;
        until("its record", async || {
            waypoint.log().contains(line).then_some(())
        })
        .await;
    }
}
