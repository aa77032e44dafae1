//! Exchanges over HTTP/1 whose bytes are counted at both far ends, and what the access log says of them.
//!
//! The same are played with the waypoint and with real Envoy.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hbone_stream::HboneStream;
use crate::wait::{until, within};
use crate::wire_app::Recorder;
use crate::ztunnel::Ztunnel;

/// The fields, in the order of [`format`]; named by who sees the bytes and where they go.
pub const FIELDS: [&str; 8] = [
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_WIRE_BYTES_SENT",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
];

/// What [`Recorder`] answers.
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A log of these fields.
#[must_use]
pub fn format() -> String {
    let fields: Vec<_> = FIELDS.iter().map(|field| format!("%{field}%")).collect();
    format!("%REQ(:PATH)%¦{}\n", fields.join("¦"))
}

const REQUESTS: &[(&str, &str)] = &[
    ("/get", "GET /get HTTP/1.1\r\nhost: web\r\n\r\n"),
    (
        "/spaces",
        "GET   /spaces HTTP/1.1\r\nhost:    web   \r\nx-a:b\r\n\r\n",
    ),
    (
        "/length",
        "POST /length HTTP/1.1\r\nhost: web\r\ncontent-length: 7\r\n\r\n1234567",
    ),
    (
        "/chunks",
        "POST /chunks HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n\
         3;ext=1\r\nabc\r\n00004\r\ndefg\r\n0\r\n\r\n",
    ),
];

/// Plays them, on one connection and on one each; gives where log and far ends differ.
pub async fn play(
    ztunnel: &Ztunnel,
    to: SocketAddr,
    recorder: &Recorder,
    log: impl Fn() -> String,
) -> Vec<String> {
    let mut differences = Vec::new();
    let mut shared = ztunnel.tunnel(to).await;
    for (path, request) in REQUESTS {
        for kept in [true, false] {
            recorder.forget();
            let path = format!("{path}/{kept}");
            let request = request.replacen(path.split('/').nth(1).unwrap(), &path[1..], 1);
            let request = request.replace("GET   /", "GET /");
            let got = if kept {
                ask(&mut shared, &request).await
            } else {
                ask(&mut ztunnel.tunnel(to).await, &request).await
            };
            let up = recorder.connections().concat();
            let up = String::from_utf8(up).unwrap();
            let counts = [
                (&*request, RECEIVED),
                (&*got, SENT),
                (&*up, SENT),
                (ANSWER, RECEIVED),
            ]
            .map(|(text, around)| [headers(text, around), text.len()].map(|n| n.to_string()))
            .concat();
            let told = until(&format!("the line of {path}"), async || {
                logged(&log(), &path)
            })
            .await;
            for ((field, right), told) in FIELDS.iter().zip(counts).zip(told) {
                if right != told {
                    differences.push(format!("{path} {field}: {told}, but {right} were seen"));
                }
            }
        }
    }
    differences
}

/// What Envoy counts around name and value of a header that it received, and of one that it sent.
const RECEIVED: usize = ": \n".len();
const SENT: usize = ": \r\n".len();

fn headers(text: &str, around: usize) -> usize {
    let head = text.split_once("\r\n\r\n").unwrap().0;
    let lines = head.split("\r\n").skip(1);
    let lines = lines.map(|line| line.split_once(':').unwrap());
    lines
        .map(|(name, value)| name.len() + value.trim().len() + around)
        .sum()
}

fn logged(log: &str, path: &str) -> Option<Vec<String>> {
    let lines = log.lines().filter_map(|line| line.split_once('¦'));
    let lines: BTreeMap<&str, &str> = lines.collect();
    let values = lines.get(path)?;
    Some(values.split('¦').map(str::to_owned).collect())
}

/// The answer as it came.
async fn ask(stream: &mut HboneStream, request: &str) -> String {
    within("an answer", async {
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut answer, mut buffer) = (String::new(), [0; 4096]);
        while !answer.ends_with("\r\n\r\nok") {
            let n = stream.read(&mut buffer).await.unwrap();
            assert!(n > 0, "{answer}");
            answer.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
        answer
    })
    .await
}
