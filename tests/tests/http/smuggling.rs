//! Requests that two parsers could read differently: what goes upstream has one reading.
//!
//! The backend keeps the bytes as they came and reads them with a parser that forgives nothing.

use waypoint_tests::ztunnel::End;

use super::recorded::{Scene, denying};

/// Nobody may go to `/smuggled`: whoever gets there went around the policy.
async fn scene() -> Scene {
    denying("[{to: [{operation: {paths: [/smuggled]}}]}]").await
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";

fn post(headers: &str, body: &str) -> String {
    format!("POST /1 HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{body}")
}

/// `(what, bytes)`: refused, or passed on with one reading.
fn shapes() -> Vec<(&'static str, String)> {
    let chunked = "transfer-encoding: chunked";
    let hidden = format!("0\r\n\r\n{SMUGGLED}");
    let length = SMUGGLED.len();
    vec![
        (
            "a length, then chunked",
            post(&format!("content-length: 5\r\n{chunked}"), &hidden),
        ),
        (
            "chunked, then a length",
            post(
                &format!("{chunked}\r\ncontent-length: {}", length + 5),
                &hidden,
            ),
        ),
        (
            "chunked, and length 0",
            post(
                &format!("content-length: 0\r\n{chunked}"),
                &format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", length),
            ),
        ),
        (
            "two lengths",
            post(
                &format!("content-length: 0\r\ncontent-length: {length}"),
                SMUGGLED,
            ),
        ),
        (
            "a list of lengths",
            post(&format!("content-length: 0, {length}"), SMUGGLED),
        ),
        ("a signed length", post("content-length: +0", SMUGGLED)),
        ("a negative length", post("content-length: -1", SMUGGLED)),
        (
            "a hexadecimal length",
            post("content-length: 0x5", SMUGGLED),
        ),
        ("an empty length", post("content-length:", SMUGGLED)),
        (
            "a length that wraps around",
            post("content-length: 18446744073709551616", SMUGGLED),
        ),
        (
            "chunked twice",
            post(&format!("{chunked}\r\n{chunked}"), &hidden),
        ),
        (
            "chunked, identity",
            post("transfer-encoding: chunked, identity", &hidden),
        ),
        ("identity", post("transfer-encoding: identity", SMUGGLED)),
        (
            "gzip, chunked",
            post("transfer-encoding: gzip, chunked", &hidden),
        ),
        ("xchunked", post("transfer-encoding: xchunked", &hidden)),
        (
            "a tab before chunked",
            post("transfer-encoding:\tchunked", &hidden),
        ),
        (
            "a vertical tab",
            post("transfer-encoding: \x0bchunked", &hidden),
        ),
        ("Chunked", post("Transfer-Encoding: cHuNkEd", &hidden)),
        (
            "a space before the colon",
            post("transfer-encoding : chunked", &hidden),
        ),
        (
            "an underscore",
            post(
                &format!("transfer_encoding: chunked\r\ncontent-length: {length}"),
                SMUGGLED,
            ),
        ),
        (
            "a folded header",
            post("x: 1\r\n transfer-encoding: chunked", &hidden),
        ),
        (
            "a folded value",
            post("transfer-encoding:\r\n chunked", &hidden),
        ),
        (
            "a first header that is folded",
            format!("POST /1 HTTP/1.1\r\n host: x\r\n{chunked}\r\n\r\n{hidden}"),
        ),
        (
            "a bare CR",
            post("x: 1\rtransfer-encoding: chunked", &hidden),
        ),
        (
            "bare LFs",
            format!("POST /1 HTTP/1.1\nhost: x\ncontent-length: 0\n\n{SMUGGLED}"),
        ),
        (
            "a bare LF in a value",
            post("x: 1\ntransfer-encoding: chunked", &hidden),
        ),
        ("a NUL", post("x: a\0b", SMUGGLED)),
        ("a header without a name", post(": chunked", SMUGGLED)),
        (
            "a header without a colon",
            post("transfer-encoding chunked", SMUGGLED),
        ),
        (
            "two hosts",
            format!("GET /1 HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n{SMUGGLED}"),
        ),
        ("no host", format!("GET /1 HTTP/1.1\r\n\r\n{SMUGGLED}")),
        (
            "HTTP/9.9",
            format!("GET /1 HTTP/9.9\r\nhost: x\r\n\r\n{SMUGGLED}"),
        ),
        (
            "HTTP/1.0 and chunked",
            format!("POST /1 HTTP/1.0\r\nhost: x\r\n{chunked}\r\n\r\n{hidden}"),
        ),
        ("HTTP/0.9", format!("GET /1\r\n{SMUGGLED}")),
        (
            "a space in the target",
            format!("GET /1 HTTP/1.1\r\nhost: x\r\nx: 1 HTTP/1.1\r\n\r\n{SMUGGLED}"),
        ),
        (
            "lines in the method",
            format!("GE\rT /1 HTTP/1.1\r\nhost: x\r\n\r\n{SMUGGLED}"),
        ),
        ("a bad chunk", post(chunked, &format!("zz\r\n{SMUGGLED}"))),
        (
            "a negative chunk",
            post(chunked, &format!("-1\r\n{SMUGGLED}")),
        ),
        (
            "a chunk that wraps around",
            post(chunked, &format!("10000000000000000\r\n{SMUGGLED}")),
        ),
        (
            "a chunk that is too long",
            post(chunked, &format!("1\r\nab{SMUGGLED}")),
        ),
        (
            "a chunk's extension with a bare LF",
            post(chunked, &format!("0;x\n\r\n{SMUGGLED}")),
        ),
        (
            "a chunk's extension with a bare CR",
            post(chunked, &format!("2;\rxx\r\nab\r\n0\r\n\r\n{SMUGGLED}")),
        ),
        (
            "bare LFs between chunks",
            post(chunked, &format!("2\nab\n0\n\n{SMUGGLED}")),
        ),
        (
            "a body on GET",
            format!("GET /1 HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{SMUGGLED}"),
        ),
        (
            "connection: content-length",
            post(
                &format!("content-length: {length}\r\nconnection: content-length"),
                SMUGGLED,
            ),
        ),
        (
            "connection: transfer-encoding",
            post(
                &format!("{chunked}\r\nconnection: close, transfer-encoding"),
                &hidden,
            ),
        ),
        (
            "connection: host",
            format!("GET /1 HTTP/1.1\r\nhost: x\r\nconnection: host\r\n\r\n{SMUGGLED}"),
        ),
        (
            "upgrade h2c",
            format!(
                "GET /1 HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n{SMUGGLED}"
            ),
        ),
        (
            "expect",
            post(
                &format!("expect: 100-continue\r\ncontent-length: {length}"),
                SMUGGLED,
            ),
        ),
        (
            "a declined websocket",
            format!(
                "GET /1 HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n{SMUGGLED}"
            ),
        ),
    ]
}

#[tokio::test]
async fn what_goes_upstream_has_one_reading() {
    let all = shapes();
    let checks = all.chunks(13).map(|shapes| async move {
        let scene = scene().await;
        for (what, bytes) in shapes {
            let (answer, end) = scene.client.exchange(scene.to, bytes.as_bytes()).await;
            let requests = scene
                .recorder
                .requests()
                .unwrap_or_else(|error| panic!("{what}: {error}\n{answer}"));
            for request in &requests {
                assert!(!request.line.contains("smuggled"), "{what}: {request:?}");
                assert_eq!(request.header("host"), "x", "{what}: {request:?}");
            }
            // Whoever isn't answered any more is told so.
            let answers = answer.matches("HTTP/1.1 ").count();
            assert!(answers > 0 || end != End::Quiet, "{what}: silence");
            scene.recorder.forget();
        }
        assert!(
            scene
                .waypoint
                .metrics()
                .await
                .contains("waypoint_panics_total 0")
        );
        let after = scene
            .client
            .raw(scene.to, b"GET /after HTTP/1.1\r\nhost: x\r\n\r\n");
        assert!(after.await.starts_with("HTTP/1.1 200 "));
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn proper_requests_go_upstream_as_they_are() {
    let scene = scene().await;
    let chunks = "transfer-encoding: chunked\r\ntrailer: t";
    let text = post(chunks, "3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nt: 1\r\n\r\n");
    let answer = scene.client.raw(scene.to, text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let requests = scene.recorder.requests().unwrap();
    assert_eq!(requests.len(), 1);
    assert_eq!(
        (requests[0].line.as_str(), &requests[0].body[..]),
        ("POST /1 HTTP/1.1", &b"abcde"[..])
    );
    assert!(requests[0].complete);
    let bytes = scene.recorder.connections().concat();
    assert!(bytes.ends_with(b"\r\n0\r\n\r\n"), "{requests:?}");

    scene.recorder.forget();
    let text = "POST http://other.example/1?x=1 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab";
    let answer = scene.client.raw(scene.to, text.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let requests = scene.recorder.requests().unwrap();
    assert_eq!(requests[0].line, "POST /1?x=1 HTTP/1.1");
    assert_eq!(requests[0].header("host"), "other.example");
    assert_eq!(requests[0].header("content-length"), "2");
}

#[tokio::test]
async fn requests_that_follow_each_other_are_each_judged() {
    let scene = scene().await;
    let text =
        format!("GET /1 HTTP/1.1\r\nhost: x\r\n\r\n{SMUGGLED}GET /2 HTTP/1.1\r\nhost: x\r\n\r\n");
    let answer = scene.client.raw(scene.to, text.as_bytes()).await;
    let statuses: Vec<_> = answer
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| &answer[..3])
        .collect();
    assert_eq!(statuses, ["200", "403", "200"], "{answer}");
    assert_eq!(scene.recorder.requests().unwrap().len(), 2);
}
