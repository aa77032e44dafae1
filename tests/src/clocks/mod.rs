//! Exchanges whose sides take their time, told in one line each: what the client got, when, and what the log says.
//!
//! The same stories are played with the waypoint and with real Envoy, so the expected lines are Envoy's.

mod backend;
mod clients;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use waypoint_config::resource::Resource;

use crate::balancing::routes;
use crate::mesh::Mesh;
use crate::wait::until;
use crate::ztunnel::Ztunnel;

pub use backend::{Attempts, service};
use clients::{http1_exchange, http2_exchange};

/// What the stories count in. Whatever happens is due after a whole number of these; it may be late by most of one.
pub const UNIT: Duration = Duration::from_millis(1000);

/// One exchange.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// The route's rule goes by its beginning.
    pub path: &'static str,
    /// For the backend: `x-early` answers at once, not after the request's end; `x-wait` units before the head;
    /// `x-stream` units of body; `x-gap` units of silence in it; `x-fail` first attempts get 503.
    pub headers: &'static [(&'static str, &'static str)],
    pub upload: Upload,
    /// What comes of it, for clients of both versions: see [`play_all`]. Where they see it differently, first for HTTP/1, then, after a
    /// bar, for HTTP/2.
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

/// The stories of attempts that may be idle for a unit ([`idle`]).
static IDLE: &[Exchange] = &[
    exchange(
        "/long/idle-head",
        &[("x-wait", "3")],
        Upload::None,
        "504 whole at 1, UT upstream_per_try_idle_timeout",
    ),
    exchange(
        "/long/idle-upload-and-head",
        &[("x-wait", "3")],
        Upload::For(2),
        "504 whole at 3, UT upstream_per_try_idle_timeout",
    ),
    exchange(
        "/both/idle-head",
        &[("x-wait", "5")],
        Upload::None,
        "504 whole at 1, UT upstream_per_try_idle_timeout",
    ),
    exchange(
        "/long/idle-never",
        &[("x-stream", "3")],
        Upload::None,
        "200 whole at 3, - via_upstream",
    ),
    exchange(
        "/long/idle-body",
        &[("x-gap", "3")],
        Upload::None,
        "200 cut at 0, UT upstream_per_try_idle_timeout|200 cut at 1, UT upstream_per_try_idle_timeout",
    ),
    // No clock runs before the request has come whole.
    exchange(
        "/long/idle-open",
        &[("x-early", "1"), ("x-gap", "3")],
        Upload::Open,
        "200 whole at 3, - via_upstream",
    ),
];

/// The mesh's resources, where attempts of all routes to `web` may be idle for a unit.
#[must_use]
pub fn idle(mesh: &Mesh) -> Vec<Resource> {
    let limit = envoy_types::pb::google::protobuf::Duration {
        seconds: 1,
        nanos: 0,
    };
    let mut resources = mesh.resources();
    routes(&mut resources, "web", |route| {
        let policy = route.retry_policy.get_or_insert_default();
        policy.per_try_idle_timeout = Some(limit);
    });
    resources
}

/// Plays those of attempts that may be idle for a unit, as [`play_all`] does.
///
/// # Panics
/// One is not as told.
pub async fn play_idle(ztunnel: &Ztunnel, to: SocketAddr, log: impl Fn() -> String) {
    play(IDLE, ztunnel, to, log).await;
}

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
            let mut told = exchange.told.split('|');
            let first = told.next().unwrap_or_default();
            let right = match client {
                Client::Http1 => first,
                Client::Http2 => told.next().unwrap_or(first),
            };
            let units = seen.at.duration_since(started).as_secs_f64() / UNIT.as_secs_f64();
            // A last byte is early by a tenth; everything may be late.
            let at = (units + 0.35).floor();
            let told = format!("{} {} at {at:.0}", seen.status, seen.end);
            (path, right, told)
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

/// Flags and details of a path's line in an access log in Istio's text format.
#[must_use]
pub fn logged(log: &str, path: &str) -> Option<String> {
    let line = log
        .lines()
        .find(|line| line.contains(&format!(" {path} ")))?;
    let mut words = line.split("\" ").nth(1)?.split(' ').skip(1);
    Some(format!("{} {}", words.next()?, words.next()?))
}
