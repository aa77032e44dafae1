//! Exchanges whose sides take their time, told in one line each: what the client got, when, and what the log says.
//!
//! The same stories are played with the waypoint and with real Envoy, so the expected lines are Envoy's.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::app::App;
use crate::hbone_stream::HboneStream;
use crate::mesh::Mesh;
use crate::wait::until;
use crate::ztunnel::Ztunnel;

/// What the stories count in. Whatever happens is due after a whole number of these; it may be late by most of one.
pub const UNIT: Duration = Duration::from_millis(1000);

/// One exchange.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// The route's rule goes by its beginning.
    pub path: &'static str,
    /// For the backend: `x-early` answers at once, not after the request's end; `x-wait` units before the head;
    /// `x-stream` units of body; `x-fail` first attempts get 503.
    pub headers: &'static [(&'static str, &'static str)],
    pub upload: Upload,
    /// What comes of it, for clients of both versions: see [`play_all`].
    pub told: &'static str,
}

/// The rules of the stories' routes.
pub const RULES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {value: /request}}]
    timeouts: {request: 1s}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /long}}]
    timeouts: {request: 4s}
    retry: {codes: [503], attempts: 8, backoff: 300ms}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /try}}]
    timeouts: {backendRequest: 1s, request: 9s}
    retry: {codes: [503], attempts: 2, backoff: 1ms}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /both}}]
    timeouts: {backendRequest: 3s, request: 3s}
    retry: {codes: [503], attempts: 2, backoff: 1ms}
    backendRefs: [{name: web, port: 80}]
"#;

pub(crate) const fn exchange(
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    upload: Upload,
    told: &'static str,
) -> Exchange {
    Exchange {
        path,
        headers,
        upload,
        told,
    }
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// The stories of time limits of a route.
pub static EXCHANGES: &[Exchange] = &[
    // The clock starts when the request has come whole.
    exchange(
        "/request/quick",
        &[],
        Upload::None,
        "200 whole at 0, - via_upstream",
    ),
    exchange(
        "/request/slow-upload",
        &[],
        Upload::For(3),
        "200 whole at 3, - via_upstream",
    ),
    exchange(
        "/request/slow-upload-and-head",
        &[("x-wait", "3")],
        Upload::For(2),
        "504 whole at 3, UT response_timeout",
    ),
    exchange(
        "/request/slow-head",
        &[("x-wait", "3")],
        Upload::None,
        "504 whole at 1, UT response_timeout",
    ),
    exchange(
        "/request/slow-body",
        &[("x-stream", "3")],
        Upload::None,
        "200 cut at 1, UT response_timeout",
    ),
    exchange(
        "/request/slow-upload-and-body",
        &[("x-stream", "3")],
        Upload::For(2),
        "200 cut at 3, UT response_timeout",
    ),
    exchange(
        "/request/early-body",
        &[("x-early", "1"), ("x-stream", "4")],
        Upload::For(2),
        "200 cut at 3, UT response_timeout",
    ),
    exchange(
        "/request/open",
        &[("x-early", "1"), ("x-stream", "3")],
        Upload::Open,
        "200 whole at 3, - via_upstream",
    ),
    exchange("/request/open-no-head", &[], Upload::Open, "- open at 6"),
    // It spans all attempts and the pauses between them.
    exchange(
        "/long/retries",
        &[("x-fail", "99"), ("x-wait", "1")],
        Upload::None,
        "504 whole at 4, UT response_timeout",
    ),
    exchange(
        "/long/retry-then-body",
        &[("x-fail", "1"), ("x-wait", "1"), ("x-stream", "4")],
        Upload::None,
        "200 cut at 4, UT response_timeout",
    ),
    // An attempt's clock ends with the head.
    exchange(
        "/try/slow-upload",
        &[],
        Upload::For(3),
        "200 whole at 3, - via_upstream",
    ),
    exchange(
        "/try/slow-head",
        &[("x-wait", "3")],
        Upload::None,
        "504 whole at 1, UT upstream_per_try_timeout",
    ),
    exchange(
        "/try/slow-upload-and-head",
        &[("x-wait", "3")],
        Upload::For(2),
        "504 whole at 3, UT upstream_per_try_timeout",
    ),
    exchange(
        "/try/slow-body",
        &[("x-stream", "3")],
        Upload::None,
        "200 whole at 3, - via_upstream",
    ),
    exchange(
        "/try/early-slow-head",
        &[("x-wait", "5"), ("x-early", "1")],
        Upload::For(2),
        "504 whole at 3, UT upstream_per_try_timeout",
    ),
    exchange(
        "/both/slow-head",
        &[("x-wait", "5")],
        Upload::None,
        "504 whole at 3, UT response_timeout",
    ),
    // gRPC's own limit is the same clock, and stands for the route's.
    exchange(
        "/request/grpc-none",
        &[GRPC, ("x-wait", "3")],
        Upload::None,
        "200 whole (grpc-status 14) at 1, UT response_timeout",
    ),
    exchange(
        "/request/grpc-zero",
        &[GRPC, ("grpc-timeout", "0m"), ("x-wait", "3")],
        Upload::None,
        "200 whole (grpc-status 14) at 1, UT response_timeout",
    ),
    exchange(
        "/request/grpc-bad",
        &[GRPC, ("grpc-timeout", "soon"), ("x-wait", "3")],
        Upload::None,
        "200 whole (grpc-status 14) at 1, UT response_timeout",
    ),
    exchange(
        "/request/grpc-head",
        &[GRPC, ("grpc-timeout", "1400m"), ("x-wait", "4")],
        Upload::None,
        "200 whole (grpc-status 14) at 1, UT response_timeout",
    ),
    exchange(
        "/request/grpc-upload",
        &[GRPC, ("grpc-timeout", "1400m")],
        Upload::For(3),
        "200 whole at 3, - via_upstream",
    ),
    exchange(
        "/request/grpc-body",
        &[GRPC, ("grpc-timeout", "1400m"), ("x-stream", "4")],
        Upload::None,
        "200 cut at 1, UT response_timeout",
    ),
    exchange(
        "/request/grpc-open",
        &[
            GRPC,
            ("grpc-timeout", "700m"),
            ("x-early", "1"),
            ("x-stream", "3"),
        ],
        Upload::Open,
        "200 whole at 3, - via_upstream",
    ),
    exchange(
        "/try/grpc-head",
        &[GRPC, ("grpc-timeout", "1400m"), ("x-wait", "5")],
        Upload::None,
        "200 whole (grpc-status 14) at 1, UT upstream_per_try_timeout",
    ),
];

/// How long the request's body takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    None,
    /// So many units.
    For(u32),
    /// It doesn't end.
    Open,
}

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Http1,
    Http2,
}

/// The service of [`RULES`], before a backend that takes its time; both speak HTTP/2 if told so.
pub async fn service(mesh: &Mesh, http2: bool) -> (SocketAddr, Attempts) {
    mesh.describe_pod(1, "web-1", "web", false);
    let attempts = backend(SocketAddr::new(mesh.pod_ip(1), 8080), http2).await;
    let protocol = if http2 { "http2" } else { "http" };
    let port = format!("{{name: {protocol}, port: 80, targetPort: 8080}}");
    mesh.manifest("route.yaml", RULES);
    (mesh.service_with_port(1, "web", &port), attempts)
}

async fn backend(address: SocketAddr, http2: bool) -> Attempts {
    let attempts = Attempts::default();
    let owned = attempts.clone();
    App::tcp(address, move |tcp| {
        let attempts = owned.clone();
        let _ = tcp.set_nodelay(true);
        async move {
            let service = service_fn(move |request| {
                let attempts = attempts.clone();
                async move { Ok::<_, Infallible>(answer(request, &attempts).await) }
            });
            let io = TokioIo::new(tcp);
            if http2 {
                let builder = http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(io, service).await;
            } else {
                let _ = http1::Builder::new().serve_connection(io, service).await;
            }
        }
    })
    .await;
    attempts
}

/// The heads that a backend saw.
#[derive(Clone, Default)]
pub struct Attempts(Arc<Mutex<Vec<Request<()>>>>);

impl Attempts {
    /// The header's value in each attempt of a path.
    #[must_use]
    pub fn header(&self, path: &str, name: &str) -> Vec<String> {
        let seen = self.0.lock();
        let of_path = seen.iter().filter(|request| request.uri().path() == path);
        of_path
            .map(|request| text(request, name).unwrap_or_default().to_owned())
            .collect()
    }
}

fn text<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

/// Bytes as they come, as a body.
struct Flow(tokio::sync::mpsc::Receiver<Bytes>);

impl futures_util::Stream for Flow {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.0.poll_recv(cx);
        polled.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

async fn answer(request: Request<Incoming>, attempts: &Attempts) -> Response<StreamBody<Flow>> {
    let units = |name: &str| text(&request, name).and_then(|v| v.parse::<u32>().ok());
    let (wait, stream, fail) = (units("x-wait"), units("x-stream"), units("x-fail"));
    let early = request.headers().contains_key("x-early");
    let path = request.uri().path().to_owned();
    let (parts, body) = request.into_parts();
    let before = {
        let mut seen = attempts.0.lock();
        let before = seen.iter().filter(|r| r.uri().path() == path).count();
        seen.push(Request::from_parts(parts, ()));
        before
    };
    let reading = tokio::spawn(body.collect());
    if !early {
        let _ = reading.await;
    }
    tokio::time::sleep(UNIT * wait.unwrap_or(0)).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let end = Instant::now() + UNIT * stream.unwrap_or(0);
        while sender.send(Bytes::from_static(b"x")).await.is_ok() && Instant::now() < end {
            tokio::time::sleep(UNIT / 10).await;
        }
    });
    let mut response = Response::new(StreamBody::new(Flow(receiver)));
    if (before as u32) < fail.unwrap_or(0) {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// An exchange as its client saw it.
struct Seen {
    status: String,
    end: String,
    /// When that was; where the answer was cut, when its last byte came.
    at: Instant,
}

/// Plays all of [`EXCHANGES`] at once, with both clients, and compares one line each: status, how the answer ended
/// (`whole`; `cut`, by a reset; `open` after six units), after how many units, and flags and details of the access log.
///
/// # Panics
/// One is not as told.
pub async fn play_all(ztunnel: &Ztunnel, to: SocketAddr, log: impl Fn() -> String) {
    play(EXCHANGES, ztunnel, to, log).await;
}

/// The same for some of them.
///
/// # Panics
/// One is not as told.
pub(crate) async fn play(
    exchanges: &[Exchange],
    ztunnel: &Ztunnel,
    to: SocketAddr,
    log: impl Fn() -> String,
) {
    let plays = exchanges.iter().flat_map(|exchange| {
        [Client::Http1, Client::Http2].map(|client| async move {
            let path = match client {
                Client::Http1 => format!("{}/http1", exchange.path),
                Client::Http2 => format!("{}/http2", exchange.path),
            };
            let tunnel = ztunnel.tunnel(to).await;
            let started = Instant::now();
            let seen = match client {
                Client::Http1 => http1_exchange(tunnel, &path, exchange).await,
                Client::Http2 => http2_exchange(tunnel, &path, exchange).await,
            };
            let units = seen.at.duration_since(started).as_secs_f64() / UNIT.as_secs_f64();
            // A last byte is early by a tenth; everything may be late.
            let at = (units + 0.35).floor();
            let told = format!("{} {} at {at:.0}", seen.status, seen.end);
            (path, exchange.told, told)
        })
    });
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    for (path, right, mut told) in futures_util::future::join_all(plays).await {
        if right.contains(", ") {
            let what = format!("a log line of {path}");
            let logged = until(&what, async || logged(&log(), &path)).await;
            told = format!("{told}, {logged}");
        }
        expected.push(format!("{path}: {right}"));
        found.push(format!("{path}: {told}"));
    }
    assert_eq!(found, expected);
}

/// What the backend was told of the time that it has.
///
/// # Panics
/// It is not what Envoy tells.
pub fn assert_told(attempts: &Attempts) {
    let millis = |path: &str| attempts.header(path, "x-envoy-expected-rq-timeout-ms");
    assert_eq!(millis("/request/quick/http1"), ["1000"]);
    assert_eq!(millis("/try/slow-head/http1"), ["1000"]);
    assert_eq!(millis("/both/slow-head/http1"), ["3000"]);
    assert_eq!(millis("/request/grpc-head/http2"), ["1000"]);
    let grpc = |path: &str| attempts.header(path, "grpc-timeout");
    assert_eq!(grpc("/request/grpc-head/http2"), ["1000m"]);
    assert_eq!(grpc("/request/grpc-none/http2"), ["1000m"]);
    assert_eq!(grpc("/try/grpc-head/http2"), ["1000m"]);
    // What is left after the first attempts.
    let left: Vec<u64> = millis("/long/retries/http1")
        .iter()
        .map(|value| value.parse().unwrap())
        .collect();
    assert!(left.len() > 1 && left[0] == 4000, "{left:?}");
    assert!(
        left.windows(2).all(|pair| pair[1] + 600 < pair[0]),
        "{left:?}"
    );
}

/// When an exchange that goes on is given up.
const LONG: u32 = 6;

async fn http1_exchange(tunnel: HboneStream, path: &str, exchange: &Exchange) -> Seen {
    let (mut read, mut write) = tokio::io::split(tunnel);
    let mut head = format!("POST {path} HTTP/1.1\r\nhost: web\r\n");
    for (name, value) in exchange.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(match exchange.upload {
        Upload::None => "content-length: 0\r\n\r\n",
        _ => "transfer-encoding: chunked\r\n\r\n",
    });
    let (upload, started) = (exchange.upload, Instant::now());
    let writing = async {
        let _ = write.write_all(head.as_bytes()).await;
        for n in 1..=chunks(upload) {
            let _ = write.write_all(b"1\r\nu\r\n").await;
            tokio::time::sleep_until((started + UNIT * n / 7).into()).await;
        }
        if matches!(upload, Upload::For(_)) {
            let _ = write.write_all(b"0\r\n\r\n").await;
        }
        std::future::pending::<()>().await;
    };
    let (mut answer, mut at) = (String::new(), Instant::now());
    let reading = async {
        let mut buffer = [0; 4096];
        loop {
            match read.read(&mut buffer).await {
                Ok(0) => return "closed",
                Err(_) => return "cut",
                Ok(n) => answer.push_str(&String::from_utf8_lossy(&buffer[..n])),
            }
            at = Instant::now();
            if is_whole(&answer) {
                return "whole";
            }
        }
    };
    let end = tokio::select! {
        () = writing => "",
        end = reading => end,
        () = tokio::time::sleep(UNIT * LONG) => "open",
    };
    if end == "open" {
        at = Instant::now();
    }
    let grpc = answer.to_ascii_lowercase();
    let grpc = grpc
        .split_once("grpc-status: ")
        .and_then(|(_, rest)| rest.split("\r\n").next());
    Seen {
        status: answer.split(' ').nth(1).unwrap_or("-").to_owned(),
        end: match grpc {
            Some(grpc) => format!("{end} (grpc-status {grpc})"),
            None => end.to_owned(),
        },
        at,
    }
}

fn chunks(upload: Upload) -> u32 {
    match upload {
        Upload::None => 0,
        Upload::For(units) => units * 7,
        Upload::Open => 7 * LONG,
    }
}

fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    match head.split_once("content-length: ") {
        Some((_, rest)) => {
            rest.split("\r\n").next().and_then(|n| n.parse().ok()) == Some(body.len())
        }
        None => body.ends_with("0\r\n\r\n"),
    }
}

async fn http2_exchange(tunnel: HboneStream, path: &str, exchange: &Exchange) -> Seen {
    let (client, driver) = h2::client::handshake(tunnel).await.unwrap();
    tokio::spawn(driver);
    let mut request = Request::post(format!("http://web{path}"));
    for (name, value) in exchange.headers {
        request = request.header(*name, *value);
    }
    let (upload, started) = (exchange.upload, Instant::now());
    let (response, mut send) = client
        .ready()
        .await
        .unwrap()
        .send_request(request.body(()).unwrap(), upload == Upload::None)
        .unwrap();
    let writing = async {
        for n in 1..=chunks(upload) {
            let _ = send.send_data(Bytes::from_static(b"u"), false);
            tokio::time::sleep_until((started + UNIT * n / 7).into()).await;
        }
        if matches!(upload, Upload::For(_)) {
            let _ = send.send_data(Bytes::new(), true);
        }
        std::future::pending::<()>().await;
    };
    let mut status = "-".to_owned();
    let reading = async {
        let cut = |error: h2::Error| match error.reason() {
            Some(h2::Reason::INTERNAL_ERROR) => "cut".to_owned(),
            reason => format!("reset {reason:?}"),
        };
        let response = match response.await {
            Ok(response) => response,
            Err(error) => return cut(error),
        };
        status = response.status().as_u16().to_string();
        let grpc = |map: &http::HeaderMap| {
            let value = map.get("grpc-status")?.to_str().ok()?.to_owned();
            Some(format!("whole (grpc-status {value})"))
        };
        let in_head = grpc(response.headers());
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            match data {
                Ok(data) => drop(body.flow_control().release_capacity(data.len())),
                Err(error) => return cut(error),
            }
        }
        match body.trailers().await {
            Err(error) => cut(error),
            Ok(trailers) => trailers
                .and_then(|map| grpc(&map))
                .or(in_head)
                .unwrap_or("whole".into()),
        }
    };
    let end = tokio::select! {
        () = writing => String::new(),
        end = reading => end,
        () = tokio::time::sleep(UNIT * LONG) => "open".into(),
    };
    Seen {
        status,
        end,
        at: Instant::now(),
    }
}

/// Flags and details of a path's line in an access log in Istio's text format.
#[must_use]
pub fn logged(log: &str, path: &str) -> Option<String> {
    let line = log
        .lines()
        .find(|line| line.contains(&format!(" {path} ")))?;
    let mut words = line.split("\" ").nth(1)?.split(' ').skip(1);
    Some(format!("{} {}", words.next()?, words.next()?))
}
