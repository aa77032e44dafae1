//! Backends that answer wrongly: nothing of it may pass for a whole answer, or for somebody else's.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use waypoint_tests::wait::within;
use waypoint_tests::ztunnel::{End, get, request};
use waypoint_tests::{Mesh, Script, Then, Waypoint, Ztunnel, broken_answers};

struct Scene {
    mesh: Mesh,
    to: SocketAddr,
    script: Script,
    waypoint: Waypoint,
    client: Ztunnel,
}

async fn scene(answer: impl Fn(&str) -> (Vec<u8>, Then) + Send + Sync + 'static) -> Scene {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    let script = Script::start(backend, answer).await;
    let (waypoint, client) = mesh.started().await;
    Scene {
        mesh,
        to,
        script,
        waypoint,
        client,
    }
}

fn fixed(text: &'static str, then: Then) -> impl Fn(&str) -> (Vec<u8>, Then) {
    move |_| (text.as_bytes().to_vec(), then)
}

const GET: &[u8] = b"GET /truncated HTTP/1.1\r\nhost: web\r\n\r\n";

#[tokio::test]
async fn a_body_that_breaks_off_does_not_look_whole() {
    for (what, text, then) in [
        (
            "too short",
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            Then::Close,
        ),
        (
            "no last chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            Then::Close,
        ),
        (
            "a bad chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
            Then::Wait,
        ),
        (
            "reset",
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            Then::Reset,
        ),
    ] {
        let scene = scene(fixed(text, then)).await;
        let long = Duration::from_secs(10);
        let (answer, end) = scene.client.exchange_until_quiet(scene.to, GET, long).await;
        // What came is there, though it broke off at once.
        assert!(answer.starts_with("HTTP/1.1 200 "), "{what}: {answer}");
        assert!(answer.contains("abc"), "{what}: {answer}");
        assert!(!answer.contains("\r\n0\r\n"), "{what}: {answer}");
        assert_eq!(end, End::Reset, "{what}: the connection can't go on");
        let line = scene.waypoint.until_logged("/truncated").await;
        let told = " 200 UPE upstream_reset_after_response_started{protocol_error} ";
        assert!(line.contains(told), "{what}: {line}");

        // And over HTTP/2: the stream is reset, the connection lives.
        let connection = scene.client.http2(scene.to).await;
        for path in ["/two", "/three"] {
            let whole = match connection.start(get(path)).await {
                Err(_) => false,
                Ok(response) => {
                    let body = within("the body's end", response.into_body().collect()).await;
                    body.is_ok()
                }
            };
            assert!(!whole, "{what}: {path}");
        }
        assert_eq!(
            scene.script.heads().len(),
            3,
            "{what}: the connection lives"
        );
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_whole() {
    let scene = scene(fixed("HTTP/1.1 200 OK\r\n\r\nabc", Then::Close)).await;
    let answer = scene.client.get(scene.to, "/old").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (StatusCode::OK, "abc")
    );
    let line = scene.waypoint.until_logged("/old").await;
    assert!(line.contains(" 200 - via_upstream "), "{line}");
}

#[tokio::test]
async fn what_is_no_answer_is_a_bad_gateway() {
    for (what, text) in [
        ("noise", "220 mail ready\r\n\r\n"),
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        ),
        (
            "a signed length",
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab",
        ),
        (
            "a folded header",
            "HTTP/1.1 200 OK\r\nx: 1\r\n content-length: 0\r\n\r\n",
        ),
        (
            "a space before the colon",
            "HTTP/1.1 200 OK\r\ncontent-length : 0\r\n\r\n",
        ),
        (
            "a NUL",
            "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        ),
        ("no status", "HTTP/1.1 \r\ncontent-length: 0\r\n\r\n"),
    ] {
        let scene = scene(fixed(text, Then::Wait)).await;
        let answer = scene.client.get(scene.to, "/noise").await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{what}");
        let line = scene.waypoint.until_logged("/noise").await;
        assert!(line.contains(" 502 UPE "), "{what}: {line}");
        assert_eq!(scene.script.heads().len(), 1, "{what}: it was sent once");
    }
}

#[tokio::test]
async fn an_answer_with_both_lengths_has_one_reading_downstream() {
    let text = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n";
    let scene = scene(fixed(text, Then::Wait)).await;
    let (answer, _) = scene.client.exchange(scene.to, GET).await;
    let head = answer
        .split("\r\n\r\n")
        .next()
        .unwrap()
        .to_ascii_lowercase();
    let length = head.contains("\r\ncontent-length:");
    let chunked = head.contains("\r\ntransfer-encoding:");
    assert!(!(length && chunked), "{answer}");
    if head.starts_with("http/1.1 200") {
        assert!(chunked && answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    } else {
        assert!(head.starts_with("http/1.1 502"), "{answer}");
    }
}

#[tokio::test]
async fn answers_that_nobody_asked_for_go_to_nobody() {
    let poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    for (what, first) in [
        (
            "pipelined",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ),
        ("after 204", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("after 304", "HTTP/1.1 304 Not Modified\r\n\r\n"),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
    ] {
        let scene = scene(move |head| {
            let mut bytes = first.as_bytes().to_vec();
            if head.starts_with("GET /first") {
                bytes.extend_from_slice(poison.as_bytes());
            }
            (bytes, Then::Wait)
        })
        .await;
        let mut connection = scene.client.http1(scene.to).await;
        for n in 0..10 {
            connection.send(get("/first")).await;
            let answer = connection.send(get(&format!("/second/{n}"))).await;
            assert_ne!(answer.text(), "poison", "{what}");
            assert!(!answer.text().contains("HTTP/1.1"), "{what}");
        }
    }
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_whatever_it_says() {
    let scene = scene(|head| {
        let body = if head.starts_with("HEAD") { "" } else { "ok" };
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}");
        (text.into_bytes(), Then::Wait)
    })
    .await;
    let mut connection = scene.client.http1(scene.to).await;
    for _ in 0..5 {
        let answer = connection.send(request(Method::HEAD, "/h", &[])).await;
        assert_eq!(answer.header("content-length"), "2");
        assert!(answer.body.is_empty());
        assert_eq!(connection.send(get("/g")).await.text(), "ok");
    }
    assert_eq!(scene.script.connections(), 1, "connections are used again");
}

#[tokio::test]
async fn protocols_are_switched_only_when_asked_for() {
    let switched =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nraw";
    let scene = scene(fixed(switched, Then::Wait)).await;
    let (answer, _) = scene.client.exchange(scene.to, GET).await;
    assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
    assert!(!answer.contains("raw"), "{answer}");
}

#[tokio::test]
async fn an_upgrade_that_is_declined_is_an_answer_like_others() {
    let declined = "HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno";
    let scene = scene(fixed(declined, Then::Wait)).await;
    let mut connection = scene.client.http1(scene.to).await;
    let wanted = [("connection", "upgrade"), ("upgrade", "websocket")];
    for _ in 0..2 {
        let answer = connection.send(request(Method::GET, "/ws", &wanted)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (426, "no")
        );
    }
}

#[tokio::test]
async fn a_declined_upgrade_with_both_lengths_is_no_answer() {
    let text = "HTTP/1.1 426 Upgrade Required\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n";
    let scene = scene(fixed(text, Then::Wait)).await;
    let wanted = [("connection", "upgrade"), ("upgrade", "websocket")];
    let answer = scene
        .client
        .request(scene.to, request(Method::GET, "/ws", &wanted))
        .await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn many_interim_answers_cost_no_answer() {
    let scene = scene(|_| {
        let mut text = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(50);
        text.push_str("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        (text.into_bytes(), Then::Wait)
    })
    .await;
    let answer = scene.client.get(scene.to, "/").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (StatusCode::OK, "ok")
    );
}

#[tokio::test]
async fn an_answers_head_has_its_limit() {
    let scene = scene(|_| {
        let big = "a".repeat(2 << 20);
        let text = format!("HTTP/1.1 200 OK\r\nbig: {big}\r\ncontent-length: 0\r\n\r\n");
        (text.into_bytes(), Then::Wait)
    })
    .await;
    let answer = scene.client.get(scene.to, "/bomb").await;
    assert!(
        [502, 503].contains(&answer.status.as_u16()),
        "{}",
        answer.status
    );
    let line = scene.waypoint.until_logged("/bomb").await;
    assert!(line.contains(" U"), "{line}");
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_again() {
    // The whole request arrives, and the connection goes: did the backend act? Nobody knows.
    const HALF: &str = "HTTP/1.1 200 OK\r\ncont";
    for (what, text, then, reason, told) in [
        (
            "closed",
            "",
            Then::Close,
            "connection termination",
            " 503 UC ",
        ),
        (
            "half an answer",
            HALF,
            Then::Close,
            "protocol error",
            " 502 UPE ",
        ),
        (
            "reset",
            "",
            Then::Reset,
            "connection termination",
            " 503 UC ",
        ),
    ] {
        let scene = scene(fixed(text, then)).await;
        let mut post = request(Method::POST, "/order", &[]);
        *post.body_mut() = "one book".into();
        let answer = scene.client.request(scene.to, post).await;
        let text = answer.text();
        assert!(
            text.ends_with(&format!("reset reason: {reason}")),
            "{what}: {text}"
        );
        let line = scene.waypoint.until_logged("/order").await;
        assert!(line.contains(told), "{what}: {line}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(scene.script.heads().len(), 1, "{what}: sent once");
        drop(scene.mesh);
    }
}

#[tokio::test]
async fn an_applications_own_503_is_not_asked_for_again() {
    let unavailable = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
    let scene = scene(fixed(unavailable, Then::Wait)).await;
    let answer = scene.client.get(scene.to, "/busy").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "busy")
    );
    assert_eq!(scene.script.heads().len(), 1);
    let line = scene.waypoint.until_logged("/busy").await;
    assert!(line.contains(" 503 - via_upstream "), "{line}");
}

#[tokio::test]
async fn an_answer_before_the_request_has_ended_is_passed_on() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let refused =
        "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig";
    let scene = scene(fixed(refused, Then::Close)).await;
    let mut stream = scene.client.tunnel(scene.to).await;
    let head = b"POST /big HTTP/1.1\r\nhost: web\r\ncontent-length: 1000000\r\n\r\nstart";
    stream.write_all(head).await.unwrap();
    let mut status = [0; 12];
    within("the early answer", stream.read_exact(&mut status))
        .await
        .unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
}

#[tokio::test]
async fn an_answer_that_breaks_off_arrives_as_far_as_it_came() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    broken_answers::backend(backend).await;
    let (waypoint, client) = mesh.started().await;
    broken_answers::play(&client, to, || waypoint.log()).await;
}
