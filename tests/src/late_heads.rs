//! Clients that begin a request's head and take their time, told in one line each.
//!
//! The same stories are played with the waypoint and with real Envoy, so the expected lines are Envoy's.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_config::resource::Resource;

use crate::managers;
use crate::mesh::Mesh;
use crate::wait::until;
use crate::ztunnel::Ztunnel;

/// A head's time. Whatever happens is due after a whole number of these.
pub const LIMIT: Duration = Duration::from_millis(1000);

/// What a client does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send(&'static str),
    /// So many tenths of [`LIMIT`].
    Wait(u32),
}

use Step::{Send, Wait};

/// Steps, and what comes of them: each answer's status with the time that its last byte came, and how the connection is
/// after the last.
const STORIES: &[(&str, &[Step], &str)] = &[
    (
        "nothing",
        &[Wait(25), Send("GET /nothing HTTP/1.1\r\nhost: web\r\n\r\n")],
        "200 at 2, open",
    ),
    (
        "half",
        &[Send("GET /half HTTP/1.1\r\nhost: w")],
        "408 at 1 (request header timeout), over",
    ),
    (
        "slow",
        &[
            Send("GET /slow HTTP/1.1\r\n"),
            Wait(4),
            Send("host: w"),
            Wait(4),
            Send("eb\r\n"),
            Wait(4),
            Send("a: b\r\n"),
        ],
        "408 at 1 (request header timeout), over",
    ),
    (
        "in time",
        &[
            Send("GET /intime HTTP/1.1\r\n"),
            Wait(2),
            Send("host: web\r\n"),
            Wait(2),
            Send("\r\n"),
        ],
        "200 at 0, open",
    ),
    (
        "second",
        &[
            Send("GET /second HTTP/1.1\r\nhost: web\r\n\r\n"),
            Wait(15),
            Send("GET /second HTTP/1.1\r\n"),
        ],
        "200 at 0, 408 at 2 (request header timeout), over",
    ),
    (
        "body",
        &[
            Send("POST /body HTTP/1.1\r\nhost: web\r\ncontent-length: 2\r\n\r\na"),
            Wait(25),
            Send("b"),
        ],
        "200 at 2, open",
    ),
    (
        "behind",
        &[Send(
            "GET /behind HTTP/1.1\r\nhost: web\r\nx-delay-ms: 2000\r\n\r\nGET /behind HTTP/1.1\r\n",
        )],
        "200 at 2, 408 at 3 (request header timeout), over",
    ),
];

/// The mesh's resources with a limit of [`LIMIT`] for heads.
#[must_use]
pub fn resources(mesh: &Mesh) -> Vec<Resource> {
    let mut resources = mesh.resources();
    managers::change(&mut resources, managers::INNER, |manager| {
        manager.request_headers_timeout = managers::millis(LIMIT.as_millis() as u64);
    });
    resources
}

/// Plays all of them at once.
///
/// # Panics
/// One is not as told.
pub async fn play_all(ztunnel: &Ztunnel, to: SocketAddr, log: impl Fn() -> String) {
    let plays = STORIES.iter().map(|(name, steps, _)| async move {
        format!("{name}: {}", play(ztunnel, to, steps).await)
    });
    let found = futures_util::future::join_all(plays).await;
    let told = STORIES
        .iter()
        .map(|(name, _, told)| format!("{name}: {told}"));
    assert_eq!(found, told.collect::<Vec<_>>());
    // Nobody knows what the late ones wanted.
    let late = |log: &str| {
        let lines = log.lines().filter(|line| line.contains(" 408 "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let late = until("the late ones in the log", async || {
        Some(late(&log())).filter(|late| late.len() == 4)
    })
    .await;
    for line in late {
        assert!(
            line.contains("\"- - HTTP/1.1\" 408 - request_header_timeout"),
            "{line}"
        );
    }
}

async fn play(ztunnel: &Ztunnel, to: SocketAddr, steps: &[Step]) -> String {
    let (mut read, mut write) = tokio::io::split(ztunnel.tunnel(to).await);
    let started = Instant::now();
    let writing = async {
        for step in steps {
            match step {
                Send(text) => drop(write.write_all(text.as_bytes()).await),
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
                // In order, here; by a reset, says Envoy.
                Ok(0) | Err(_) => return "over",
                Ok(n) => answer.push_str(&String::from_utf8_lossy(&buffer[..n])),
            }
            let at = (started.elapsed().as_secs_f64() / LIMIT.as_secs_f64() + 0.2).floor();
            if let Some((head, body)) = answer.split_once("\r\n\r\n")
                && let Some(body) = whole(head, body)
            {
                let status = head.split(' ').nth(1).unwrap_or("?");
                let why = if status == "200" {
                    String::new()
                } else {
                    format!(" ({body})")
                };
                told.push(format!("{status} at {at:.0}{why}"));
                answer.clear();
            }
        }
    };
    let end = tokio::select! {
        () = writing => "",
        end = reading => end,
        () = tokio::time::sleep(LIMIT * 5) => "open",
    };
    told.push(end.to_owned());
    told.join(", ")
}

/// The body, if all of it came.
fn whole(head: &str, body: &str) -> Option<String> {
    let head = head.to_ascii_lowercase();
    let length = head.split_once("content-length: ");
    let length = length.and_then(|(_, rest)| rest.split("\r\n").next()?.parse::<usize>().ok());
    match length {
        Some(length) => (body.len() >= length).then(|| body.to_owned()),
        None => body.ends_with("0\r\n\r\n").then(|| body.to_owned()),
    }
}
