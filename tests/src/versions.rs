//! One request, sent in any version of HTTP and in any framing, and its answer told in one form.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

use crate::Ztunnel;
use crate::hbone_stream::HboneStream;
use crate::wait::within;
use crate::wire::{Framing, read_body, read_head};

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
    Http2,
}

/// How the client frames its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sends {
    Nothing,
    Length(&'static str),
    /// Chunked, or DATA without a length. May be empty.
    Unknown(&'static str),
    /// As `Unknown`, and a trailer.
    Trailers(&'static str),
    /// `websocket`, and some bytes after the answer.
    Upgrade(&'static str),
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// `1.1 200`
    pub status: String,
    pub framing: Framing,
    pub body: String,
    pub trailers: Vec<(String, String)>,
    /// Whether the same connection answered another request.
    pub kept: bool,
}

/// Sends the request in a tunnel of its own.
pub async fn send(
    ztunnel: &Ztunnel,
    to: SocketAddr,
    version: Version,
    method: &str,
    sends: Sends,
    headers: &[(&str, &str)],
) -> Answered {
    let what = format!("{method} {version:?} {sends:?} {headers:?}");
    let sent = async {
        let stream = ztunnel.tunnel(to).await;
        match version {
            Version::Http2 => send_http2(stream, method, sends, headers).await,
            _ => send_http1(stream, version, method, sends, headers).await,
        }
    };
    within(&what, sent).await
}

fn head(version: Version, method: &str, sends: Sends, headers: &[(&str, &str)]) -> String {
    let version = match version {
        Version::Http10 => "1.0",
        _ => "1.1",
    };
    let mut text = format!("{method} /x HTTP/{version}\r\nhost: web\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    match sends {
        Sends::Nothing => {}
        Sends::Length(body) => text.push_str(&format!("content-length: {}\r\n", body.len())),
        Sends::Unknown(_) => text.push_str("transfer-encoding: chunked\r\n"),
        Sends::Trailers(_) => text.push_str("transfer-encoding: chunked\r\ntrailer: x-end\r\n"),
        Sends::Upgrade(_) => text.push_str("connection: upgrade\r\nupgrade: websocket\r\n"),
    }
    text + "te: trailers\r\n\r\n"
}

async fn send_http1(
    stream: HboneStream,
    version: Version,
    method: &str,
    sends: Sends,
    headers: &[(&str, &str)],
) -> Answered {
    let mut text = head(version, method, sends, headers);
    let chunk = |body: &str| match body {
        "" => String::new(),
        body => format!("{:x}\r\n{body}\r\n", body.len()),
    };
    match sends {
        Sends::Nothing | Sends::Upgrade(_) => {}
        Sends::Length(body) => text.push_str(body),
        Sends::Unknown(body) => text.push_str(&(chunk(body) + "0\r\n\r\n")),
        Sends::Trailers(body) => text.push_str(&(chunk(body) + "0\r\nx-end: 1\r\n\r\n")),
    }
    let mut stream = BufReader::new(stream);
    stream.write_all(text.as_bytes()).await.unwrap();
    let Some(head) = read_head(&mut stream).await else {
        return none();
    };
    let status = head.line.trim_start_matches("HTTP/");
    let status = status.split(' ').take(2).collect::<Vec<_>>().join(" ");
    if status.ends_with(" 101") {
        let Sends::Upgrade(bytes) = sends else {
            panic!("an upgrade that nobody asked for: {head:?}");
        };
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut echo = vec![0; bytes.len()];
        stream.read_exact(&mut echo).await.unwrap();
        return Answered {
            status,
            framing: Framing::None,
            body: String::from_utf8_lossy(&echo).into_owned(),
            trailers: Vec::new(),
            kept: false,
        };
    }
    let framing = head.answer_framing(method);
    let Some((body, trailers)) = read_body(&mut stream, framing).await else {
        return Answered {
            body: "<broken>".to_owned(),
            ..none()
        };
    };
    let again = "GET /again HTTP/1.1\r\nhost: web\r\n\r\n";
    let kept =
        stream.write_all(again.as_bytes()).await.is_ok() && read_head(&mut stream).await.is_some();
    Answered {
        status,
        framing,
        body,
        trailers,
        kept,
    }
}

/// The connection ended without an answer.
fn none() -> Answered {
    Answered {
        status: "none".to_owned(),
        framing: Framing::None,
        body: String::new(),
        trailers: Vec::new(),
        kept: false,
    }
}

async fn send_http2(
    stream: HboneStream,
    method: &str,
    sends: Sends,
    headers: &[(&str, &str)],
) -> Answered {
    let (client, driver) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(driver);
    let mut client = client.ready().await.unwrap();
    let mut request = Request::builder().method(method).uri("http://web/x");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (body, trailers) = match sends {
        Sends::Nothing | Sends::Upgrade(_) => (None, false),
        Sends::Length(body) => {
            request = request.header("content-length", body.len());
            ((!body.is_empty()).then_some(body), false)
        }
        Sends::Unknown(body) => (Some(body), false),
        Sends::Trailers(body) => (Some(body), true),
    };
    let request = request.header("te", "trailers").body(()).unwrap();
    let (response, mut send) = client.send_request(request, body.is_none()).unwrap();
    if let Some(body) = body {
        send.send_data(Bytes::from_static(body.as_bytes()), !trailers)
            .unwrap();
        if trailers {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-end", http::HeaderValue::from_static("1"));
            send.send_trailers(trailers).unwrap();
        }
    }
    let Ok(response) = response.await else {
        return none();
    };
    let (parts, mut stream) = response.into_parts();
    let framing = match parts.headers.get("content-length") {
        _ if stream.is_end_stream() || method == "HEAD" => Framing::None,
        Some(length) => Framing::Length(length.to_str().unwrap().parse().unwrap()),
        None => Framing::Unknown,
    };
    let mut body = Vec::new();
    while let Some(Ok(data)) = stream.data().await {
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await.ok().flatten().unwrap_or_default();
    let trailers = trailers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    });
    Answered {
        status: format!("2 {}", parts.status.as_u16()),
        framing,
        body: String::from_utf8_lossy(&body).into_owned(),
        trailers: trailers.collect(),
        kept: true,
    }
}
