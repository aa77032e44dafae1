//! Requests that take longer than their connection manager or their route allows. The right lines are real Envoy's
//! (`make test-envoy` plays the same with it).

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_tests::managers::{self, INNER, millis};
use waypoint_tests::stream_limits::{
    LIMITS, Limit, assert_grpc_told, play_all, resources, services,
};
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{App, ControlPlane, Mesh};

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

/// A gRPC channel of a client that watches many things: the streams never end, and each one is answered.
#[tokio::test]
async fn a_thousand_streams_go_on_beside_each_other_on_one_connection() {
    const STREAMS: usize = 1000;
    let mesh = Mesh::new();
    let (_, backend) = mesh.bare_service(1, "web");
    let to = mesh.service_with_port(1, "web", "{name: grpc, port: 80, targetPort: 8080}");
    App::tcp(backend, echo_every_message).await;
    let (waypoint, client) = mesh.started().await;
    let tunnel = client.tunnel(to).await;
    let (mut client, driver) = h2::client::handshake(tunnel).await.unwrap();
    tokio::spawn(driver);
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let request = Request::post("http://web/watch").body(()).unwrap();
        client = within("room for a stream", client.ready()).await.unwrap();
        let (answer, send) = client.send_request(request, false).unwrap();
        let answer = within("the head of an answer", answer).await.unwrap();
        streams.push((send, answer.into_body()));
    }
    for (n, (send, answer)) in streams.iter_mut().enumerate() {
        let message = Bytes::from(format!("message {n}"));
        send.send_data(message.clone(), false).unwrap();
        let came = within("the echo", answer.data()).await.unwrap().unwrap();
        assert_eq!(came, message);
    }
    for (mut send, mut answer) in streams {
        send.send_data(Bytes::new(), true).unwrap();
        while let Some(rest) = within("the end", answer.data()).await {
            assert!(rest.unwrap().is_empty());
        }
    }
    until("the records", async || {
        (waypoint
            .log()
            .matches("\"POST /watch HTTP/2\" 200 ")
            .count()
            == STREAMS)
            .then_some(())
    })
    .await;
}

async fn echo_every_message(tcp: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(tcp).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            let mut messages = request.into_body();
            while let Some(Ok(message)) = messages.data().await {
                send.send_data(message, false).unwrap();
            }
            send.send_data(Bytes::new(), true).unwrap();
        });
    }
}
