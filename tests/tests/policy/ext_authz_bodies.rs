//! External authorization that is told of bodies: whole, in part, too large, expected; and upgrades, which have none.

use bytes::Bytes;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::BufferSettings;
use http::{Method, StatusCode};
use http_body_util::Full;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::wait::within;
use waypoint_tests::ztunnel::request;

use crate::ext_authz::{http_of, scene};

pub(super) fn with_body(most: u32, partial: bool, bytes: bool) -> Option<BufferSettings> {
    Some(BufferSettings {
        max_request_bytes: most,
        allow_partial_message: partial,
        pack_as_bytes: bytes,
    })
}

pub(super) fn post(path: &str, body: impl Into<Bytes>) -> http::Request<Full<Bytes>> {
    let body = body.into();
    request(Method::POST, path, &[]).map(|_| Full::new(body))
}

#[tokio::test]
async fn a_body_is_told_and_goes_on_whole() {
    let scene = scene(|asks| asks.with_request_body = with_body(1_000_000, false, true)).await;
    // More than may be on its way to an upstream at a time.
    for length in [1, 16 * 1024, 900_000, 1_000_000] {
        let body = Bytes::from(vec![b'u'; length]);
        let answer = scene
            .client
            .request(scene.to, post("/b", body.clone()))
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{length}");
        let check = scene.authz.asked_once();
        let http = http_of(&check);
        assert_eq!(http.raw_body.len(), length);
        assert_eq!(http.size, i64::try_from(length).unwrap());
        assert_eq!(http.headers["x-envoy-auth-partial-body"], "false");
        let seen = scene.app.last();
        assert_eq!(seen.body, body);
        assert_eq!(seen.header("content-length"), length.to_string());
        assert_eq!(seen.header("x-envoy-auth-partial-body"), "");
    }
    let http2 = scene.client.http2(scene.to).await;
    let answer = http2.send(post("/two", "both")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(http_of(&scene.authz.asked_once()).raw_body, b"both");
    // Nothing to tell.
    assert_eq!(
        scene.client.get(scene.to, "/none").await.status,
        StatusCode::OK
    );
    let check = scene.authz.asked_once();
    let partial = http_of(&check).headers.get("x-envoy-auth-partial-body");
    assert_eq!(partial, None);
    // In pieces, with trailers.
    scene.app.forget();
    let pieces = b"POST /pieces HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\
                   x-envoy-auth-partial-body: true\r\nconnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n";
    let raw = scene.client.raw(scene.to, pieces).await;
    assert!(raw.starts_with("HTTP/1.1 200"), "{raw}");
    let check = scene.authz.asked_once();
    assert_eq!(http_of(&check).raw_body, b"abcde");
    assert_eq!(
        http_of(&check).headers["x-envoy-auth-partial-body"],
        "false"
    );
    assert_eq!(scene.app.last().body, "abcde");
    assert_eq!(scene.app.last().header("transfer-encoding"), "chunked");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_anybody_is_asked() {
    let scene = scene(|asks| {
        asks.with_request_body = with_body(10, false, false);
        asks.failure_mode_allow = true;
    })
    .await;
    let http2 = scene.client.http2(scene.to).await;
    let large = || post("/large", "12345678901");
    for answer in [
        scene.client.request(scene.to, large()).await,
        http2.send(large()).await,
    ] {
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.text(), "Payload Too Large");
    }
    assert!(scene.authz.take().is_empty() && scene.app.seen().is_empty());
    let line = scene.waypoint.until_logged("/large").await;
    assert!(line.contains("413 - request_payload_too_large"), "{line}");
    let fits = scene
        .client
        .request(scene.to, post("/fits", "123456789\u{0}"));
    assert_eq!(fits.await.status, StatusCode::OK);
    assert_eq!(http_of(&scene.authz.asked_once()).body, "123456789\u{0}");
}

#[tokio::test]
async fn a_part_of_a_body_will_do_and_nobody_waits_for_the_rest() {
    let scene = scene(|asks| asks.with_request_body = with_body(4, true, true)).await;
    let mut stream = scene.client.tunnel(scene.to).await;
    let head = b"POST /part HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    // The check waits for what it may have.
    stream.write_all(b"2\r\nab\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(scene.authz.take().is_empty());
    stream.write_all(b"4\r\ncdef\r\n").await.unwrap();
    scene.authz.until_asked().await;
    let check = scene.authz.asked_once();
    assert_eq!(http_of(&check).raw_body, b"abcd");
    assert_eq!(http_of(&check).headers["x-envoy-auth-partial-body"], "true");
    stream.write_all(b"1\r\ng\r\n0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(scene.app.last().body, "abcdefg");
}

#[tokio::test]
async fn an_expectation_is_met_by_whoever_wants_the_body() {
    let scene = scene(|asks| asks.with_request_body = with_body(100, false, true)).await;
    // The body comes though nobody has asked for it, as it does from clients that wait for a moment.
    let bytes =
        b"POST /expect HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\
                  connection: close\r\n\r\nhello";
    let raw = scene.client.raw(scene.to, bytes).await;
    assert!(raw.contains("HTTP/1.1 200"), "{raw}");
    assert_eq!(http_of(&scene.authz.asked_once()).raw_body, b"hello");
    assert_eq!(scene.app.last().body, "hello");
}

#[tokio::test]
async fn websockets_are_asked_about_by_their_heads() {
    let scene = scene(|asks| asks.with_request_body = with_body(100, false, true)).await;
    let mut stream = scene.client.tunnel(scene.to).await;
    let head = b"GET /socket HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
    stream.write_all(head).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let byte = within("an echo", stream.read_u8()).await.unwrap();
        answer.push(byte);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    let check = scene.authz.asked_once();
    assert_eq!(http_of(&check).headers["upgrade"], "websocket");
}
