//! The waypoint and Envoy side by side, and the clients of both.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_hbone::certificates::dev_ca::MintedCertificate;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::literal_h2::{self, Reply};
use waypoint_tests::wait::within;
use waypoint_tests::{Mesh, Waypoint, Ztunnel};

use super::{Outcome, scene};

/// HTTP/2 requests that are asked at the same time.
pub(super) const LANES: usize = 48;

/// Where requests go by tunnels. Each tunnel that isn't ended in order counts against its connection, so
/// there is a new one in time.
pub(super) struct Tunnels<'a> {
    pub(super) via: SocketAddr,
    pub(super) certificate: &'a MintedCertificate,
    pub(super) to: SocketAddr,
    pub(super) ztunnel: Option<Ztunnel>,
    pub(super) opened: usize,
}

impl Tunnels<'_> {
    pub(super) async fn open(&mut self) -> HboneStream {
        if self.opened.is_multiple_of(50) {
            self.ztunnel = Some(Ztunnel::connect(self.via, self.certificate).await.unwrap());
        }
        self.opened += 1;
        self.ztunnel.as_ref().unwrap().tunnel(self.to).await
    }
}

/// An HTTP/1.1 connection that is opened again when it was closed.
pub(super) struct Client<'a> {
    pub(super) tunnels: Tunnels<'a>,
    pub(super) open: Option<HboneStream>,
}

impl Client<'_> {
    pub(super) async fn ask(&mut self, target: &[u8]) -> Outcome {
        let mut stream = match self.open.take() {
            Some(stream) => stream,
            None => self.tunnels.open().await,
        };
        let head = [b"GET ", target, b" HTTP/1.1\r\nhost: web\r\n\r\n"].concat();
        let answer = within("an answer", async {
            stream.write_all(&head).await.ok()?;
            read_answer(&mut stream).await
        });
        let Some((head, body)) = answer.await else {
            return Outcome::Refused;
        };
        if !head.contains("connection: close") {
            self.open = Some(stream);
        }
        outcome(head[9..12].parse().unwrap(), &body)
    }
}

/// Head and body; `None`: it ends before.
pub(super) async fn read_answer(stream: &mut HboneStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|l| l.split("\r\n").next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some((head.to_owned(), body.to_owned()));
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

pub(super) fn outcome(status: u16, body: &str) -> Outcome {
    match status {
        200 => Outcome::Sent(body.to_owned()),
        403 if body == "RBAC: access denied" => Outcome::Denied,
        // A line feed in the target ends the line: to Envoy, an older version's.
        400 | 426 => Outcome::Refused,
        status => Outcome::Other(status),
    }
}

pub(super) fn from_http2(reply: Reply) -> Outcome {
    match reply {
        Reply::Answered { status, body } => outcome(status, &String::from_utf8_lossy(&body)),
        Reply::Ended => Outcome::Refused,
    }
}

/// The waypoint and Envoy side by side.
pub(super) struct Pair {
    pub(super) _mesh: Mesh,
    pub(super) _waypoint: Waypoint,
    pub(super) _envoy: Envoy,
    pub(super) to: SocketAddr,
    pub(super) ours: SocketAddr,
    pub(super) theirs: SocketAddr,
    pub(super) certificate: MintedCertificate,
}

pub(super) async fn pair(mode: &str) -> Pair {
    let (mesh, to) = scene(mode).await;
    let waypoint = mesh.start().await;
    let (envoy, theirs) = Envoy::beside(&mesh, &mesh.resources()).await;
    Pair {
        ours: waypoint.address(),
        certificate: mesh.certificate("default", "curl"),
        _mesh: mesh,
        _waypoint: waypoint,
        _envoy: envoy,
        to,
        theirs,
    }
}

impl Pair {
    pub(super) fn tunnels(&self, via: SocketAddr) -> Tunnels<'_> {
        Tunnels {
            via,
            certificate: &self.certificate,
            to: self.to,
            ztunnel: None,
            opened: 0,
        }
    }

    /// All outcomes, in order.
    pub(super) async fn over_http1(&self, via: SocketAddr, targets: &[Vec<u8>]) -> Vec<Outcome> {
        let lines = targets.chunks(targets.len().div_ceil(8));
        let asked = lines.map(|targets| async move {
            let tunnels = self.tunnels(via);
            let mut client = Client {
                tunnels,
                open: None,
            };
            let mut outcomes = Vec::new();
            for target in targets {
                outcomes.push(client.ask(target).await);
            }
            outcomes
        });
        futures_util::future::join_all(asked).await.concat()
    }

    /// A refused request's connection ends after a pause, in which others are asked.
    pub(super) async fn over_http2(&self, via: SocketAddr, targets: &[Vec<u8>]) -> Vec<Outcome> {
        let lines = targets.chunks(targets.len().div_ceil(LANES));
        let asked = lines.map(|targets| async move {
            let mut tunnels = self.tunnels(via);
            let mut outcomes = Vec::new();
            for target in targets {
                let head = literal_h2::get(target, &[]);
                let reply = literal_h2::exchange(tunnels.open().await, &head, &[]);
                outcomes.push(from_http2(reply.await));
            }
            outcomes
        });
        futures_util::future::join_all(asked).await.concat()
    }
}
