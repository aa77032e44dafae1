//! Requests that take longer than their connection manager or their route allows, told in one line each.
//!
//! The same stories are played with the waypoint and with real Envoy, so the expected lines are Envoy's.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::config::route::v3::{RouteAction, route_action::MaxStreamDuration};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_config::resource::Resource;

use crate::app::App;
use crate::managers::{self, INNER, millis};
use crate::mesh::Mesh;
use crate::wait::until;
use crate::ztunnel::Ztunnel;

/// What is limited, all to [`LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Idle,
    Request,
    Duration,
    /// The manager limits idleness, and the route doesn't.
    RouteNoIdle,
    /// The route limits the stream, the manager doesn't.
    RouteDuration,
    /// The route lets gRPC say how long, up to this, and takes 0.2 s off.
    RouteGrpc,
}

pub const LIMITS: [Limit; 6] = [
    Limit::Idle,
    Limit::Request,
    Limit::Duration,
    Limit::RouteNoIdle,
    Limit::RouteDuration,
    Limit::RouteGrpc,
];

const LIMIT: Duration = Duration::from_millis(1000);

/// What a client does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send(&'static str),
    /// So many tenths of [`LIMIT`].
    Wait(u32),
}

use Step::{Send, Wait};

const SILENT: &[Step] = &[Send(
    "GET /NAME HTTP/1.1\r\nhost: web\r\nx-delay-ms: 3000\r\n\r\n",
)];
const HALF_UPLOAD: &[Step] = &[Send(
    "POST /NAME HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\na",
)];
const TRICKLE: &[Step] = &[
    Send("POST /NAME HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\na"),
    Wait(5),
    Send("b"),
    Wait(5),
    Send("c"),
    Wait(5),
    Send("d"),
];
const GRPC: &[Step] = &[Send(
    "POST /NAME HTTP/1.1\r\nhost: web\r\ncontent-type: application/grpc\r\nx-delay-ms: 3000\r\ncontent-length: 0\r\n\r\n",
)];
const GRPC_LIMITED: &[Step] = &[Send(
    "POST /NAME HTTP/1.1\r\nhost: web\r\ncontent-type: application/grpc\r\ngrpc-timeout: 700m\r\nx-delay-ms: 3000\r\ncontent-length: 0\r\n\r\n",
)];
const GRPC_PATIENT: &[Step] = &[Send(
    "POST /NAME HTTP/1.1\r\nhost: web\r\ncontent-type: application/grpc\r\ngrpc-timeout: 1M\r\nx-delay-ms: 3000\r\ncontent-length: 0\r\n\r\n",
)];
/// Answered in part, and not further.
const STALLS: &[Step] = &[Send("GET /NAME/stalls HTTP/1.1\r\nhost: stalls\r\n\r\n")];

/// Limit, name, steps, what comes of them, and what stands in the log.
const STORIES: &[(Limit, &str, &[Step], &str, &str)] = &[
    (
        Limit::Idle,
        "silent",
        SILENT,
        "504 stream timeout, open",
        "504 SI stream_idle_timeout",
    ),
    (
        Limit::Idle,
        "half",
        HALF_UPLOAD,
        "408 stream timeout, over",
        "408 SI stream_idle_timeout",
    ),
    (
        Limit::Idle,
        "trickle",
        TRICKLE,
        "200, open",
        "200 - via_upstream",
    ),
    (
        Limit::Idle,
        "grpc",
        GRPC,
        "200 grpc 14 stream timeout, open",
        "200 SI stream_idle_timeout",
    ),
    (
        Limit::Request,
        "silent",
        SILENT,
        "200, open",
        "200 - via_upstream",
    ),
    (
        Limit::Request,
        "half",
        HALF_UPLOAD,
        "408 request timeout, over",
        "408 - request_overall_timeout",
    ),
    (
        Limit::Request,
        "trickle",
        TRICKLE,
        "408 request timeout, over",
        "408 - request_overall_timeout",
    ),
    (
        Limit::Duration,
        "silent",
        SILENT,
        "504 downstream duration timeout, open",
        "504 - max_duration_timeout",
    ),
    (
        Limit::Duration,
        "trickle",
        TRICKLE,
        "408 downstream duration timeout, over",
        "408 - max_duration_timeout",
    ),
    (
        Limit::Duration,
        "grpc",
        GRPC,
        "200 grpc 4 downstream duration timeout, open",
        "200 - max_duration_timeout",
    ),
    (
        Limit::RouteNoIdle,
        "silent",
        SILENT,
        "200, open",
        "200 - via_upstream",
    ),
    (
        Limit::RouteDuration,
        "silent",
        SILENT,
        "504 downstream duration timeout, open",
        "504 - max_duration_timeout",
    ),
    (
        Limit::RouteGrpc,
        "silent",
        SILENT,
        "200, open",
        "200 - via_upstream",
    ),
    (
        Limit::RouteGrpc,
        "limited",
        GRPC_LIMITED,
        "200 grpc 4 downstream duration timeout, open",
        "200 - max_duration_timeout",
    ),
    (
        Limit::RouteGrpc,
        "patient",
        GRPC_PATIENT,
        "200 grpc 4 downstream duration timeout, open",
        "200 - max_duration_timeout",
    ),
];

/// Answers that begin, and stall.
const STALLED: &[(Limit, &str)] = &[
    (Limit::Idle, "200 SI stream_idle_timeout"),
    (Limit::Duration, "200 - max_duration_timeout"),
];

/// The services of the stories: one that answers, one that begins to.
pub async fn services(mesh: &Mesh) -> (SocketAddr, App, SocketAddr) {
    let (to, app) = mesh.http_service(1, "web").await;
    let (stalls, backend) = mesh.bare_service(2, "stalls");
    App::tcp(backend, |mut tcp| async move {
        let mut buffer = [0; 4096];
        while tcp.read(&mut buffer).await.is_ok_and(|n| n > 0) {
            let part = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
            let _ = tcp.write_all(part).await;
        }
    })
    .await;
    (to, app, stalls)
}

/// The mesh's resources under this limit. Routes have no time limit of their own.
#[must_use]
pub fn resources(mesh: &Mesh, limit: Limit) -> Vec<Resource> {
    let mut resources = mesh.resources();
    managers::change(&mut resources, INNER, |manager| {
        set(manager, limit);
        managers::change_routes(manager, |route| set_route(route, limit));
    });
    resources
}

fn set(manager: &mut HttpConnectionManager, limit: Limit) {
    let time = millis(LIMIT.as_millis() as u64);
    match limit {
        Limit::Idle | Limit::RouteNoIdle => manager.stream_idle_timeout = time,
        Limit::Request => manager.request_timeout = time,
        Limit::Duration => {
            manager.common_http_protocol_options = Some(HttpProtocolOptions {
                max_stream_duration: time,
                ..HttpProtocolOptions::default()
            });
        }
        Limit::RouteDuration | Limit::RouteGrpc => {}
    }
}

fn set_route(route: &mut RouteAction, limit: Limit) {
    let time = millis(LIMIT.as_millis() as u64);
    match limit {
        Limit::RouteNoIdle => route.idle_timeout = millis(0),
        Limit::RouteDuration => {
            route.max_stream_duration = Some(MaxStreamDuration {
                max_stream_duration: time,
                ..MaxStreamDuration::default()
            });
        }
        Limit::RouteGrpc => {
            route.max_stream_duration = Some(MaxStreamDuration {
                grpc_timeout_header_max: time,
                grpc_timeout_header_offset: millis(200),
                ..MaxStreamDuration::default()
            });
        }
        _ => {}
    }
}

/// Plays all of a limit at once.
///
/// # Panics
/// One is not as told.
pub async fn play_all(
    ztunnel: &Ztunnel,
    to: SocketAddr,
    stalls: SocketAddr,
    limit: Limit,
    log: impl Fn() -> String,
) {
    let stories = STORIES.iter().filter(|(of, ..)| *of == limit);
    let plays = stories.clone().map(|(_, name, steps, ..)| async move {
        format!("{name}: {}", play(ztunnel, to, steps, name).await)
    });
    let found = futures_util::future::join_all(plays).await;
    let told: Vec<_> = stories
        .clone()
        .map(|(_, name, _, told, _)| format!("{name}: {told}"))
        .collect();
    assert_eq!(found, told, "{limit:?}");
    let mut lines: Vec<(String, &str)> = stories
        .map(|(_, name, _, _, line)| (format!("/{name} HTTP"), *line))
        .collect();
    for (_, line) in STALLED.iter().filter(|(of, _)| *of == limit) {
        let found = play(ztunnel, stalls, STALLS, "stalled").await;
        assert_eq!(
            found, "over",
            "{limit:?}: what came of it is no whole answer"
        );
        lines.push(("/stalled/stalls HTTP".to_owned(), line));
    }
    for (what, line) in lines {
        let logged = until("a line of the log", async || {
            let log = log();
            log.lines()
                .find(|line| line.contains(&what))
                .map(str::to_owned)
        })
        .await;
        assert!(logged.contains(line), "{limit:?} {what}: {line}\n{logged}");
    }
}

/// What the upstream's gRPC was told of its time.
///
/// # Panics
/// It is otherwise.
pub fn assert_grpc_told(app: &App) {
    let mut told: Vec<_> = app
        .seen()
        .iter()
        .filter(|seen| seen.target != "/silent")
        .map(|seen| format!("{} {}", seen.target, seen.header("grpc-timeout")))
        .collect();
    told.sort();
    assert_eq!(told, ["/limited 500m", "/patient 800m"]);
}

async fn play(ztunnel: &Ztunnel, to: SocketAddr, steps: &[Step], name: &str) -> String {
    let (mut read, mut write) = tokio::io::split(ztunnel.tunnel(to).await);
    let writing = async {
        for step in steps {
            match step {
                Send(text) => {
                    let text = text.replace("NAME", name);
                    drop(write.write_all(text.as_bytes()).await);
                }
                Wait(tenths) => tokio::time::sleep(LIMIT * *tenths / 10).await,
            }
        }
        std::future::pending::<()>().await;
    };
    let mut told = Vec::new();
    let reading = async {
        let (mut answer, mut buffer) = (String::new(), [0; 4096]);
        loop {
            match read.read(&mut buffer).await {
                Ok(0) | Err(_) => return "over",
                Ok(n) => answer.push_str(&String::from_utf8_lossy(&buffer[..n])),
            }
            if let Some(line) = line(&answer) {
                told.push(line);
                answer.clear();
            }
        }
    };
    let end = tokio::select! {
        () = writing => "",
        end = reading => end,
        () = tokio::time::sleep(LIMIT * 7) => "open",
    };
    told.push(end.to_owned());
    told.join(", ")
}

/// A whole answer in a few words.
fn line(answer: &str) -> Option<String> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let head = head.to_ascii_lowercase();
    let header = |name: &str| {
        let (_, rest) = head.split_once(&format!("\r\n{name}: "))?;
        Some(rest.split("\r\n").next()?.to_owned())
    };
    let length: usize = header("content-length")
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    if body.len() < length {
        return None;
    }
    let status = head.split(' ').nth(1)?;
    Some(match header("grpc-status") {
        Some(grpc) => {
            let message = header("grpc-message").unwrap_or_default();
            format!("{status} grpc {grpc} {}", message.replace("%20", " "))
        }
        None if status == "200" => status.to_owned(),
        None => format!("{status} {body}"),
    })
}
