//! Heads that hyper would take and Envoy doesn't, and the other way round.

use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::versions::{Sends, Version, send};
use waypoint_tests::wait::within;
use waypoint_tests::wire::{read_body, read_head};
use waypoint_tests::ztunnel::End;

use super::{envoy_beside, scene};

/// `(what, bytes, status, details, what the backend saw of the line)`; an empty line: it saw nothing.
fn heads() -> Vec<(String, String, u16, &'static str, &'static str)> {
    let request =
        |headers: &str| format!("POST /x HTTP/1.1\r\nhost: web\r\n{headers}\r\n\r\n0\r\n\r\n");
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: web\r\n\r\n");
    // Exactly so many bytes from the first to the last.
    let long = |n: usize| {
        format!(
            "GET /x HTTP/1.1\r\nhost: web\r\nx: {}\r\n\r\n",
            "b".repeat(n - 35)
        )
    };
    let headers = |n: usize| {
        let more = "x: 1\r\n".repeat(n - 1);
        format!("GET /x HTTP/1.1\r\nhost: web\r\n{more}\r\n")
    };
    let two = "http1.content_length_and_chunked_not_allowed";
    let coding = "http1.invalid_transfer_encoding";
    let large = "http1.headers_too_large";
    let query = "GET /x?q={a=%22b%22}%3C%3E`|^\\ 1.1";
    [
        (
            "a length, then chunked",
            request("content-length: 5\r\ntransfer-encoding: chunked"),
            400,
            two,
            "",
        ),
        (
            "chunked, then a length",
            request("transfer-encoding: chunked\r\ncontent-length: 5"),
            400,
            two,
            "",
        ),
        (
            "a coding and chunked",
            request("transfer-encoding: gzip, chunked"),
            400,
            coding,
            "",
        ),
        (
            "chunked twice",
            request("transfer-encoding: chunked\r\ntransfer-encoding: chunked"),
            400,
            coding,
            "",
        ),
        (
            "a coding",
            request("transfer-encoding: gzip"),
            400,
            coding,
            "",
        ),
        ("the largest head", long(61_440), 200, "", "GET /x 1.1"),
        ("a byte more", long(61_441), 431, large, ""),
        ("61 KiB", long(62_464), 431, large, ""),
        ("far more", long(300_000), 431, large, ""),
        ("a hundred headers", headers(100), 200, "", "GET /x 1.1"),
        ("one more", headers(101), 431, large, ""),
        ("a query", target("/x?q={a=\"b\"}<>`|^\\"), 200, "", query),
        ("a path", target("/x<`>"), 200, "", "GET /x%3C%60%3E 1.1"),
        (
            "an absolute target",
            target("http://web/x?q=\"b\""),
            200,
            "",
            "GET /x?q=%22b%22 1.1",
        ),
    ]
    .map(|(what, bytes, status, details, line)| (what.to_owned(), bytes, status, details, line))
    .to_vec()
}

#[tokio::test]
async fn heads_are_judged_as_by_envoy() {
    let scene = scene().await;
    let (_, to, backend) = &scene.to[1];
    let mut refused = [0; 2];
    for (what, bytes, status, details, line) in heads() {
        // After another on the same connection: what is refused comes in its turn.
        let before = "GET /before HTTP/1.1\r\nhost: web\r\n\r\n";
        let bytes = format!("{before}{bytes}");
        // Whoever is refused is waited for until the end.
        let pause = Duration::from_millis(if status == 200 { 400 } else { 10_000 });
        let (answer, end) = scene
            .client
            .exchange_until_quiet(*to, bytes.as_bytes(), pause)
            .await;
        let answers: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|a| &a[..3]).collect();
        assert_eq!(answers, ["200", &status.to_string()], "{what}: {answer}");
        let mut got = backend.take();
        got.remove(0);
        assert_eq!(
            got.iter().map(|g| &*g.line).collect::<Vec<_>>().concat(),
            line,
            "{what}"
        );
        if status != 200 {
            assert_eq!(end, End::Closed, "{what}");
            refused[usize::from(status == 431)] += 1;
            scene
                .waypoint
                .until_logged(&format!("\" {status} DPE {details} - "))
                .await;
        }
    }
    for (code, count) in [("400", refused[0]), ("431", refused[1])] {
        let labels = [("response_code", code), ("response_flags", "DPE")];
        scene
            .waypoint
            .until_metric("istio_requests_total", &labels, f64::from(count))
            .await;
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn heads_beside_envoy() {
    let scene = scene().await;
    let (envoy, theirs) = envoy_beside(&scene.mesh, &scene.mesh.resources()).await;
    let (_, to, _) = &scene.to[1];
    for (what, bytes, status, details, _) in heads() {
        let (answer, _) = theirs.exchange(*to, bytes.as_bytes()).await;
        let expected = match details {
            // hyper knows no better than 400.
            "http1.invalid_transfer_encoding" => 501,
            _ => status,
        };
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{what}: {answer}"
        );
    }
    waypoint_tests::wait::until("Envoy's log", async || {
        let log = envoy.log();
        heads()
            .iter()
            .all(|head| log.contains(head.3))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn heads_that_come_in_parts_are_the_same_heads() {
    let scene = scene().await;
    let (_, to, backend) = &scene.to[1];
    let first = "POST /x?a=\"<b>\" HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    let second = "PUT /x?\" HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n";
    for part in [1, 7, 60] {
        let mut stream = BufReader::new(scene.client.tunnel(*to).await);
        send_in_parts(&mut stream, first, part).await;
        // Without the backend's word a client goes on by itself.
        send_in_parts(&mut stream, "hello", part).await;
        assert_eq!(answer_to(&mut stream, "POST").await, "HTTP/1.1 200 Fine");
        send_in_parts(
            &mut stream,
            &format!("{second}5\r\nhello\r\n0\r\n\r\n"),
            part,
        )
        .await;
        assert_eq!(answer_to(&mut stream, "PUT").await, "HTTP/1.1 200 Fine");
        let got = backend.take();
        let lines: Vec<_> = got.iter().map(|got| (&*got.line, &*got.body)).collect();
        let expected = [
            ("POST /x?a=%22%3Cb%3E%22 1.1", "hello"),
            ("PUT /x?%22 1.1", "hello"),
        ];
        assert_eq!(lines, expected, "{part}");
        assert_eq!(got[0].header("expect"), ["100-continue"]);
    }
    // What can't become a head isn't waited for.
    for text in [
        "\x16\x03\x01",
        "GE(T / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n bad\r\n",
    ] {
        let (answer, _) = scene.client.exchange(*to, text.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{text:?}: {answer}");
    }
}

async fn send_in_parts(stream: &mut BufReader<HboneStream>, text: &str, part: usize) {
    for part in text.as_bytes().chunks(part) {
        stream.write_all(part).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn answer_to(stream: &mut BufReader<HboneStream>, method: &str) -> String {
    let answer = async {
        let head = read_head(stream).await.unwrap();
        read_body(stream, head.answer_framing(method))
            .await
            .unwrap();
        head.line
    };
    within("an answer", answer).await
}

#[tokio::test]
async fn crumbs_become_one_cookie() {
    let scene = scene().await;
    let crumbs = [
        ("cookie", "a=1"),
        ("x", "y"),
        ("cookie", "b=2"),
        ("cookie", "c=3"),
    ];
    for (speaks, to, backend) in &scene.to {
        for client in [Version::Http11, Version::Http2] {
            let sent = send(&scene.client, *to, client, "GET", Sends::Nothing, &crumbs).await;
            assert!(sent.status.ends_with(" 200"), "{sent:?}");
            let cookies = backend.take()[0].header("cookie").join(" and ");
            let expected = match client {
                Version::Http2 => "a=1; b=2; c=3",
                _ => "a=1 and b=2 and c=3",
            };
            assert_eq!(cookies, expected, "{client:?} to {speaks:?}");
        }
    }
}

#[tokio::test]
async fn the_same_limit_holds_for_http2() {
    let scene = scene().await;
    let (_, to, backend) = &scene.to[1];
    for (length, status) in [(59 << 10, "2 200"), (61 << 10, "2 431")] {
        let long = "b".repeat(length);
        let headers = [("x", &*long)];
        let sent = send(
            &scene.client,
            *to,
            Version::Http2,
            "GET",
            Sends::Nothing,
            &headers,
        )
        .await;
        assert_eq!(sent.status, status, "{length}");
        assert_eq!(backend.take().is_empty(), status != "2 200");
    }
}
