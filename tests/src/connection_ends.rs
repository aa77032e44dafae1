//! How clients' connections come to their ends by their own limits, told in one line each.
//!
//! The same stories are played with the waypoint and with real Envoy, so the expected lines are Envoy's.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::UInt32Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use waypoint_config::resource::Resource;

use crate::managers::{self, HBONE, INNER, millis};
use crate::mesh::Mesh;
use crate::ztunnel::Ztunnel;

/// What limits a connection of its stories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`AGE`], and then [`DRAIN`].
    Age,
    /// The same, where HTTP/1 hears of it by an answer alone.
    AgeWithAnswer,
    /// Two.
    Requests,
    /// [`AGE`].
    Idle,
}

pub const LIMITS: [Limit; 4] = [
    Limit::Age,
    Limit::AgeWithAnswer,
    Limit::Requests,
    Limit::Idle,
];

const AGE: Duration = Duration::from_millis(1500);
const DRAIN: Duration = Duration::from_millis(2000);
/// Long after the end of what has an end.
const LONG: Duration = Duration::from_secs(12);

/// What a client does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Get,
    /// Is answered after three seconds.
    GetSlow,
    Wait(Duration),
}

use Step::{Get, GetSlow, Wait};

const PAST_AGE: Step = Wait(Duration::from_millis(2000));
const PART: Step = Wait(Duration::from_millis(1000));

/// Limit, steps over HTTP/1.1, and what comes of them.
const HTTP1: &[(Limit, &[Step], &str)] = &[
    (Limit::Age, &[Get, PAST_AGE, Get], "200, 200 close, over"),
    (Limit::Age, &[Get], "200, over after 3.0 s"),
    (Limit::Age, &[GetSlow], "200 close, over"),
    (Limit::AgeWithAnswer, &[Get], "200, open"),
    (
        Limit::AgeWithAnswer,
        &[Get, PAST_AGE, PAST_AGE, PAST_AGE, Get],
        "200, 200 close, over",
    ),
    (Limit::Requests, &[Get, Get, Get], "200, 200 close, over"),
    (Limit::Idle, &[Get], "200, over after 1.5 s"),
    (
        Limit::Idle,
        &[Get, PART, Get, PART, Get],
        "200, 200, 200, over after 1.5 s",
    ),
    (Limit::Idle, &[GetSlow], "200, over after 1.5 s"),
];

/// The same over HTTP/2, where streams run beside what the connection is told. Streams that a client begins after it was
/// told to begin none aren't played.
const HTTP2: &[(Limit, &[Step], &str)] = &[
    (
        Limit::Age,
        &[GetSlow],
        "going, gone after 1, answers 1, over",
    ),
    (
        Limit::Age,
        &[Get, Get],
        "going, gone after 3, answers 2, over",
    ),
    (
        Limit::Requests,
        &[Get, GetSlow],
        "going, gone after 3, answers 2, over",
    ),
    (Limit::Idle, &[Get], "going, gone after 1, answers 1, over"),
];

/// The mesh's resources under this limit.
#[must_use]
pub fn resources(mesh: &Mesh, limit: Limit) -> Vec<Resource> {
    let mut resources = mesh.resources();
    managers::change(&mut resources, INNER, |manager| set(manager, limit));
    resources
}

/// The same limit for HBONE connections.
#[must_use]
pub fn hbone_resources(mesh: &Mesh, limit: Limit) -> Vec<Resource> {
    let mut resources = mesh.resources();
    managers::change(&mut resources, HBONE, |manager| set(manager, limit));
    resources
}

fn set(manager: &mut HttpConnectionManager, limit: Limit) {
    let mut common = HttpProtocolOptions::default();
    let age = millis(AGE.as_millis() as u64);
    match limit {
        Limit::Age | Limit::AgeWithAnswer => common.max_connection_duration = age,
        Limit::Requests => {
            common.max_requests_per_connection = Some(UInt32Value { value: 2 });
        }
        Limit::Idle => common.idle_timeout = age,
    }
    manager.http1_safe_max_connection_duration = limit == Limit::AgeWithAnswer;
    manager.drain_timeout = millis(DRAIN.as_millis() as u64);
    manager.common_http_protocol_options = Some(common);
}

/// Plays all of a limit at once.
///
/// # Panics
/// One is not as told.
pub async fn play_all(ztunnel: &Ztunnel, to: SocketAddr, limit: Limit) {
    let of = |stories: &'static [(Limit, &'static [Step], &'static str)]| {
        stories.iter().filter(move |(of, ..)| *of == limit)
    };
    let http1 = of(HTTP1).map(|(_, steps, told)| async move {
        let found = play_http1(ztunnel, to, steps).await;
        assert!(
            is_told(&found, told),
            "{limit:?} {steps:?}\n {found}\n {told}"
        );
    });
    let http2 = of(HTTP2).map(|(_, steps, told)| async move {
        let found = play_http2(ztunnel, to, steps).await;
        assert_eq!(found, *told, "{limit:?} {steps:?}");
    });
    tokio::join!(
        futures_util::future::join_all(http1),
        futures_util::future::join_all(http2)
    );
}

/// Plays a client that never says anything where idle connections end. Envoy waits for its first bytes before it looks at the time.
///
/// # Panics
/// It is not as told.
pub async fn play_silence(ztunnel: &Ztunnel, to: SocketAddr) {
    let found = play_http1(ztunnel, to, &[]).await;
    assert!(is_told(&found, "over after 1.5 s"), "{found}");
}

/// Times are what is waited for at least.
fn is_told(found: &str, told: &str) -> bool {
    let split = |text: &str| {
        let (events, time) = text.split_once(" after ").unwrap_or((text, "0 s"));
        let time = time.trim_end_matches(" s").parse::<f64>().unwrap();
        (events.to_owned(), time)
    };
    let (found, told) = (split(found), split(told));
    // An age is drawn, up to a tenth below.
    found.0 == told.0 && found.1 >= told.1 * 0.85
}

fn get(step: Step) -> Option<&'static str> {
    match step {
        Get => Some("GET / HTTP/1.1\r\nhost: web\r\n\r\n"),
        GetSlow => Some("GET / HTTP/1.1\r\nhost: web\r\nx-delay-ms: 3000\r\n\r\n"),
        Wait(_) => None,
    }
}

async fn play_http1(ztunnel: &Ztunnel, to: SocketAddr, steps: &[Step]) -> String {
    let (mut read, mut write) = tokio::io::split(ztunnel.tunnel(to).await);
    let mut told = Vec::new();
    let mut last = Instant::now();
    for step in steps {
        if let Wait(time) = step {
            tokio::time::sleep(*time).await;
        }
        let Some(request) = get(*step) else {
            continue;
        };
        if write.write_all(request.as_bytes()).await.is_err() {
            break;
        }
        let Some(head) = answer(&mut read).await else {
            break;
        };
        last = Instant::now();
        let head = head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap_or("?").to_owned();
        let close = head.contains("connection: close");
        told.push(if close {
            format!("{status} close")
        } else {
            status
        });
    }
    let closes = told.last().is_some_and(|last| last.ends_with("close"));
    let mut rest = [0; 64];
    let end = match tokio::time::timeout(LONG, read.read(&mut rest)).await {
        Err(_) => "open".to_owned(),
        Ok(Ok(0) | Err(_)) if closes => "over".to_owned(),
        Ok(Ok(0) | Err(_)) => format!("over after {:.2} s", last.elapsed().as_secs_f64()),
        Ok(Ok(_)) => "more".to_owned(),
    };
    told.push(end);
    told.join(", ")
}

/// One answer's head, once all of it has come; `None`: the connection is over.
async fn answer(read: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let n = read.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.split_once("content-length: ");
            let length = length.and_then(|(_, rest)| rest.split("\r\n").next()?.parse().ok());
            if body.len() >= length.unwrap_or(0usize) {
                return Some(head.to_owned());
            }
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn play_http2(ztunnel: &Ztunnel, to: SocketAddr, steps: &[Step]) -> String {
    let (mut read, mut write) = tokio::io::split(ztunnel.tunnel(to).await);
    let mut bytes = PREFACE.to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for (number, step) in steps.iter().enumerate() {
        let delay: &[(&[u8], &[u8])] = match step {
            GetSlow => &[(b"x-delay-ms", b"3000")],
            _ => &[],
        };
        let fields = crate::literal_h2::get(b"/", delay);
        bytes.extend(crate::literal_h2::request(2 * number as u32 + 1, &fields));
    }
    let _ = write.write_all(&bytes).await;
    let (mut told, mut answers) = (Vec::new(), 0);
    let end = tokio::time::timeout(LONG, async {
        loop {
            let mut head = [0; 9];
            if read.read_exact(&mut head).await.is_err() {
                return "over";
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if read.read_exact(&mut payload).await.is_err() {
                return "over";
            }
            match head[3] {
                1 => answers += 1,
                // PING, to be answered.
                6 if head[4] & 1 == 0 => {
                    let mut pong = vec![0, 0, 8, 6, 1, 0, 0, 0, 0];
                    pong.extend_from_slice(&payload);
                    let _ = write.write_all(&pong).await;
                }
                7 => {
                    let last = u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]]);
                    told.push(match last {
                        0x7fff_ffff => "going".to_owned(),
                        last => format!("gone after {last}"),
                    });
                }
                _ => {}
            }
        }
    });
    let end = end.await.unwrap_or("open");
    told.extend([format!("answers {answers}"), end.to_owned()]);
    told.join(", ")
}

/// An HBONE connection that is old takes no new tunnel, and those that there are go on.
///
/// # Panics
/// It is otherwise.
pub async fn play_hbone(ztunnel: &Ztunnel, to: SocketAddr) {
    let mut open = ztunnel.http1(to).await;
    let ok = open.send(crate::ztunnel::get("/")).await;
    assert_eq!(ok.status, http::StatusCode::OK);
    let begun = Instant::now();
    loop {
        match ztunnel.connect_to(&to.to_string(), &[]).await {
            Err(_) => break,
            Ok(_) => assert!(begun.elapsed() < LONG, "no end"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ok = open.send(crate::ztunnel::get("/")).await;
    assert_eq!(ok.status, http::StatusCode::OK, "what was open goes on");
}
