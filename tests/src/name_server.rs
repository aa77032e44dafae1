//! A name server over UDP, by the story's hand. It knows the names that it is told, and no others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;

/// Record types, as numbers.
const A: u16 = 1;
const AAAA: u16 = 28;
/// Response codes.
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// The server. Clones share it.
#[derive(Clone)]
pub struct NameServer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    records: HashMap<String, (Vec<IpAddr>, u32)>,
    mood: Mood,
    queries: HashMap<String, usize>,
}

/// How it treats who asks.
#[derive(Clone, Copy, Default)]
pub enum Mood {
    #[default]
    Answers,
    /// SERVFAIL to everything.
    Fails,
    /// Says nothing.
    IsSilent,
}

impl NameServer {
    pub async fn start() -> NameServer {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let server = NameServer {
            address: socket.local_addr().unwrap(),
            state: Arc::default(),
        };
        tokio::spawn(server.clone().serve(socket));
        server
    }

    /// The addresses of a name from now on, in this order; none: there is no such name.
    pub fn set(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        let records = &mut self.state.lock().records;
        records.insert(name.to_owned(), (addresses.to_vec(), ttl));
    }

    pub fn mood(&self, mood: Mood) {
        self.state.lock().mood = mood;
    }

    /// How often it was asked for a name.
    #[must_use]
    pub fn queries(&self, name: &str) -> usize {
        self.state.lock().queries.get(name).copied().unwrap_or(0)
    }

    async fn serve(self, socket: UdpSocket) {
        let mut buffer = [0; 1500];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            if let Some(answer) = self.answer(&buffer[..n]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    }

    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let (name, kind, end) = question(query)?;
        let mut state = self.state.lock();
        *state.queries.entry(name.clone()).or_default() += 1;
        let none = (Vec::new(), 0);
        let (addresses, ttl) = state.records.get(&name).unwrap_or(&none);
        let code = match state.mood {
            Mood::IsSilent => return None,
            Mood::Fails => SERVFAIL,
            Mood::Answers if addresses.is_empty() => NXDOMAIN,
            Mood::Answers => 0,
        };
        let of_kind = |a: &&IpAddr| code == 0 && kind == if a.is_ipv4() { A } else { AAAA };
        let found: Vec<&IpAddr> = addresses.iter().filter(of_kind).collect();
        let mut answer = query[..2].to_vec();
        // A response, with recursion.
        answer.extend([0x81, 0x80 | code]);
        answer.extend([0, 1, 0, found.len() as u8, 0, 0, 0, 0]);
        answer.extend(&query[12..end]);
        for address in found {
            // The name of the question.
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1]);
            answer.extend(ttl.to_be_bytes());
            let bytes = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            answer.extend((bytes.len() as u16).to_be_bytes());
            answer.extend(bytes);
        }
        Some(answer)
    }
}

/// The name and type asked for, and where the question ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = query.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}
