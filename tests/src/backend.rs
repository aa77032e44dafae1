//! A backend that keeps how a request was framed, and answers in whatever framing the request asks for.
//!
//! HTTP/1 in bytes, HTTP/2 with h2: both without a library that would tidy up what came or what goes.
//! `x-answer` says how it answers: `length` (the default), `unknown` (chunked; in HTTP/1.0 until the
//! end of the connection), `close` (until the end of the connection), `trailers`, `none` (204), or a status
//! as `413`. `x-continue` says what it does before it reads a body: `say` (100, then it reads),
//! `refuse` (it answers without reading, and keeps the connection), `busy` (503 the first time, without
//! reading; then as `say`) or nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::app::App;
use crate::wire::{Framing, Head, read_body, read_head};

/// What the backend answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Http10,
    Http11,
    Http2,
}

/// A request as the backend saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// `GET /x 1.1`
    pub line: String,
    /// Without those that only proxies are concerned with; in order of names.
    pub headers: Vec<(String, String)>,
    pub framing: Framing,
    pub body: String,
    pub trailers: Vec<(String, String)>,
}

impl Got {
    /// The header's values, one by one.
    #[must_use]
    pub fn header(&self, name: &str) -> Vec<&str> {
        let values = self.headers.iter().filter(|(n, _)| n == name);
        values.map(|(_, value)| value.as_str()).collect()
    }
}

/// The backend, and what it saw.
#[derive(Clone)]
pub struct Backend {
    speaks: Speaks,
    got: Arc<Mutex<Vec<Got>>>,
    connections: Arc<Mutex<usize>>,
    was_busy: Arc<Mutex<bool>>,
}

impl Backend {
    pub async fn start(address: SocketAddr, speaks: Speaks) -> Backend {
        let backend = Backend {
            speaks,
            got: Arc::default(),
            connections: Arc::default(),
            was_busy: Arc::default(),
        };
        let owned = backend.clone();
        App::tcp(address, move |tcp| owned.clone().serve(tcp)).await;
        backend
    }

    /// What it saw since this was last asked.
    #[must_use]
    pub fn take(&self) -> Vec<Got> {
        std::mem::take(&mut self.got.lock())
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.connections.lock()
    }

    async fn serve(self, tcp: TcpStream) {
        let _ = tcp.set_nodelay(true);
        *self.connections.lock() += 1;
        if self.speaks == Speaks::Http2 {
            self.serve_http2(tcp).await;
        } else {
            self.serve_http1(BufReader::new(tcp)).await;
        }
    }

    async fn serve_http1(self, mut tcp: BufReader<TcpStream>) {
        while let Some(head) = read_head(&mut tcp).await {
            let version = match self.speaks {
                Speaks::Http10 => "1.0",
                _ => "1.1",
            };
            if head.header("upgrade") == "websocket" {
                self.saw(&head, String::new(), Vec::new());
                let _ = tcp.write_all(SWITCH).await;
                let (mut read, mut write) = tokio::io::split(tcp);
                let _ = tokio::io::copy(&mut read, &mut write).await;
                return;
            }
            let busy = head.header("x-continue") == "busy"
                && !std::mem::replace(&mut *self.was_busy.lock(), true);
            if busy {
                self.saw(&head, String::new(), Vec::new());
                let _ = tcp.write_all(BUSY).await;
                return;
            }
            match head.header("x-continue") {
                "say" | "busy" => {
                    let _ = tcp.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                }
                "refuse" => {
                    self.saw(&head, String::new(), Vec::new());
                    let answer = answer(&head, version);
                    if tcp.write_all(&answer.0).await.is_err() || answer.1 {
                        return;
                    }
                    // Whatever comes of the body now is what the client wasn't to send.
                    let Some((body, _)) = read_body(&mut tcp, head.request_framing()).await else {
                        return;
                    };
                    if let Some(last) = self.got.lock().last_mut() {
                        last.body = body;
                    }
                    continue;
                }
                _ => {}
            }
            let Some((body, trailers)) = read_body(&mut tcp, head.request_framing()).await else {
                return;
            };
            self.saw(&head, body, trailers);
            let (answer, close) = answer(&head, version);
            if tcp.write_all(&answer).await.is_err() || close {
                return;
            }
        }
    }

    fn saw(&self, head: &Head, body: String, trailers: Vec<(String, String)>) {
        let mut words = head.line.split(' ');
        let (method, target) = (words.next(), words.next());
        let version = words.next().unwrap_or_default();
        self.got.lock().push(Got {
            line: format!(
                "{} {} {}",
                method.unwrap_or_default(),
                target.unwrap_or_default(),
                version.trim_start_matches("HTTP/")
            ),
            headers: essential(head.headers.clone()),
            framing: head.request_framing(),
            body,
            trailers,
        });
    }

    async fn serve_http2(self, tcp: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(tcp).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().answer_http2(request, respond));
        }
    }

    async fn answer_http2(
        self,
        request: http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
    ) {
        let (parts, mut stream) = request.into_parts();
        let headers = pairs(&parts.headers);
        let head = Head {
            line: String::new(),
            headers: headers.clone(),
        };
        let framing = match parts.headers.get("content-length") {
            Some(length) => Framing::Length(length.to_str().unwrap().parse().unwrap()),
            None if stream.is_end_stream() => Framing::None,
            None => Framing::Unknown,
        };
        let mut body = Vec::new();
        if head.header("x-continue") != "refuse" {
            while let Some(data) = stream.data().await {
                let Ok(data) = data else { return };
                let _ = stream.flow_control().release_capacity(data.len());
                body.extend_from_slice(&data);
            }
        }
        let trailers = match head.header("x-continue") {
            "refuse" => None,
            _ => stream.trailers().await.ok().flatten(),
        };
        let authority = parts.uri.authority().map(ToString::to_string);
        let mut headers = essential(headers);
        headers.push(("host".to_owned(), authority.unwrap_or_default()));
        headers.sort();
        self.got.lock().push(Got {
            line: format!("{} {} 2", parts.method, parts.uri.path_and_query().unwrap()),
            headers,
            framing,
            body: String::from_utf8_lossy(&body).into_owned(),
            trailers: trailers.map(|t| pairs(&t)).unwrap_or_default(),
        });
        let wants = head.header("x-answer");
        let mut response = http::Response::builder().status(status(wants));
        let bodiless = wants == "none" || parts.method == "HEAD";
        if matches!(wants, "" | "length" | "413") {
            response = response.header("content-length", "5");
        }
        let response = response.body(()).unwrap();
        let Ok(mut send) = respond.send_response(response, bodiless) else {
            return;
        };
        if !bodiless {
            let ends = wants != "trailers";
            let _ = send.send_data("hello".into(), ends);
            if !ends {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-end", http::HeaderValue::from_static("1"));
                let _ = send.send_trailers(trailers);
            }
        }
    }
}

const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

fn status(wants: &str) -> u16 {
    match wants {
        "none" => 204,
        wants => wants.parse().unwrap_or(200),
    }
}

/// The bytes, and whether the connection ends after them.
fn answer(head: &Head, version: &str) -> (Vec<u8>, bool) {
    let wants = head.header("x-answer");
    let (framing, body, mut close) = match (wants, version) {
        ("none", _) => ("", "", false),
        ("unknown" | "trailers", "1.0") | ("close", _) => ("", "hello", true),
        ("unknown", _) => (
            "transfer-encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            false,
        ),
        ("trailers", _) => (
            "transfer-encoding: chunked\r\ntrailer: x-end\r\n",
            "5\r\nhello\r\n0\r\nx-end: 1\r\n\r\n",
            false,
        ),
        _ => ("content-length: 5\r\n", "hello", false),
    };
    close |= version == "1.0";
    let body = match head.line.starts_with("HEAD ") {
        true => "",
        false => body,
    };
    let status = status(wants);
    let text = format!("HTTP/{version} {status} Fine\r\n{framing}\r\n{body}");
    (text.into_bytes(), close)
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let pairs = headers.iter();
    pairs
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.to_string(), value)
        })
        .collect()
}

/// Without what only proxies are concerned with, and without framing, which is told apart.
fn essential(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    headers.retain(|(name, _)| {
        !name.starts_with("x-envoy-")
            && ![
                "x-request-id",
                "x-forwarded-proto",
                "content-length",
                "transfer-encoding",
            ]
            .contains(&name.as_str())
    });
    headers.sort();
    headers
}
