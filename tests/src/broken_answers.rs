//! Answers that break off, and how much of them arrives: the right lines are Envoy's.

use std::net::SocketAddr;

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clocks::logged;
use crate::wait::{until, within};
use crate::wire_app::{Script, Then};
use crate::ztunnel::Ztunnel;

struct Case {
    path: &'static str,
    answer: &'static str,
    then: Then,
    /// Status, body, how it ended, flags and details.
    told: &'static str,
}

const CASES: &[Case] = &[
    Case {
        path: "/short",
        answer: "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        then: Then::Close,
        told: "200 abc cut, UPE upstream_reset_after_response_started{protocol_error}",
    },
    Case {
        path: "/chunked",
        answer: "HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        then: Then::Close,
        told: "201 abc cut, UPE upstream_reset_after_response_started{protocol_error}",
    },
    Case {
        path: "/reset",
        answer: "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        then: Then::Reset,
        told: "200 abc cut, UPE upstream_reset_after_response_started{protocol_error}",
    },
    Case {
        path: "/head-only",
        answer: "HTTP/1.1 418 Teapot\r\ncontent-length: 10\r\n\r\n",
        then: Then::Close,
        told: "418  cut, UPE upstream_reset_after_response_started{protocol_error}",
    },
    Case {
        path: "/half-a-head",
        answer: "HTTP/1.1 200 OK\r\ncontent-le",
        then: Then::Close,
        told: "502, UPE upstream_reset_before_response_started{protocol_error}",
    },
];

/// A backend for [`play`].
pub async fn backend(address: SocketAddr) -> Script {
    Script::start(address, |head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let case = CASES.iter().find(|case| path.starts_with(case.path));
        let case = case.unwrap_or(&CASES[0]);
        (case.answer.as_bytes().to_vec(), case.then)
    })
    .await
}

/// Asks for every answer with clients of both versions.
///
/// # Panics
/// One doesn't arrive as far as it came, or isn't told of as Envoy does.
pub async fn play(ztunnel: &Ztunnel, to: SocketAddr, log: impl Fn() -> String) {
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for case in CASES {
        for http2 in [false, true] {
            let path = format!("{}/{}", case.path, if http2 { "http2" } else { "http1" });
            let told = if http2 {
                within("the answer", http2_answer(ztunnel, to, &path)).await
            } else {
                within("the answer", http1_answer(ztunnel, to, &path)).await
            };
            let logged = until("its log line", async || logged(&log(), &path)).await;
            found.push(format!("{path}: {told}, {logged}"));
            expected.push(format!("{path}: {}", case.told));
        }
    }
    assert_eq!(found, expected);
}

async fn http1_answer(ztunnel: &Ztunnel, to: SocketAddr, path: &str) -> String {
    let mut tunnel = ztunnel.tunnel(to).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: web\r\n\r\n");
    tunnel.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let pause = std::time::Duration::from_secs(10);
    let end = loop {
        match tokio::time::timeout(pause, tunnel.read(&mut buffer)).await {
            Err(_) => break "open",
            Ok(Ok(0)) => break "closed",
            Ok(Err(_)) => break "cut",
            Ok(Ok(n)) => answer.extend_from_slice(&buffer[..n]),
        }
    };
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).unwrap_or("-").to_owned();
    if status == "503" || status == "502" {
        return status;
    }
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let body = match body.split_once("\r\n") {
        Some((_, chunk)) => chunk.trim_end(),
        None => body,
    };
    format!("{status} {body} {end}")
}

async fn http2_answer(ztunnel: &Ztunnel, to: SocketAddr, path: &str) -> String {
    let (client, driver) = h2::client::handshake(ztunnel.tunnel(to).await)
        .await
        .unwrap();
    tokio::spawn(driver);
    let request = Request::get(format!("http://web{path}")).body(()).unwrap();
    let (response, _) = client
        .ready()
        .await
        .unwrap()
        .send_request(request, true)
        .unwrap();
    let cut = |error: h2::Error| match error.reason() {
        Some(h2::Reason::INTERNAL_ERROR) => "cut".to_owned(),
        reason => format!("reset {reason:?}"),
    };
    let response = match response.await {
        Ok(response) => response,
        Err(error) => return format!("- {}", cut(error)),
    };
    let status = response.status().as_u16();
    if status >= 502 {
        return status.to_string();
    }
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let end = loop {
        match body.data().await {
            None => break "whole".to_owned(),
            Some(Ok(data)) => bytes.extend_from_slice(&data),
            Some(Err(error)) => break cut(error),
        }
    };
    format!("{status} {} {end}", String::from_utf8_lossy(&bytes))
}
