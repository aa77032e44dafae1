//! Backends of bytes: one keeps a request exactly as it came, one answers exactly what a story wants.
//!
//! Hyper, on both sides of [`crate::App`], reads leniently and writes properly; what is smuggled past a
//! proxy shows only in the bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::App;
use crate::wait::unless_silent;

/// So long nothing may come before a request counts as complete.
const QUIET: Duration = Duration::from_millis(60);

/// Keeps what comes, per connection, and answers when nothing more comes.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<Vec<Vec<u8>>>>);

impl Recorder {
    pub async fn start(address: SocketAddr) -> Recorder {
        let recorder = Recorder(Arc::default());
        let owned = recorder.clone();
        App::tcp(address, move |tcp| owned.clone().record(tcp)).await;
        recorder
    }

    async fn record(self, mut tcp: TcpStream) {
        let index = {
            let mut connections = self.0.lock();
            connections.push(Vec::new());
            connections.len() - 1
        };
        let mut buffer = [0; 16 * 1024];
        let mut answered = false;
        loop {
            match unless_silent(QUIET, tcp.read(&mut buffer)).await {
                Some(Ok(0) | Err(_)) => return,
                Some(Ok(n)) => {
                    answered = false;
                    self.0.lock()[index].extend_from_slice(&buffer[..n]);
                }
                None if answered || head(&self.0.lock()[index]).is_none() => {}
                None => {
                    answered = true;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    let _ = tcp.write_all(answer).await;
                }
            }
        }
    }

    /// The bytes so far, per connection.
    #[must_use]
    pub fn connections(&self) -> Vec<Vec<u8>> {
        self.0.lock().clone()
    }

    /// Forgets the bytes so far.
    pub fn forget(&self) {
        for bytes in self.0.lock().iter_mut() {
            bytes.clear();
        }
    }

    /// The requests so far, in the one reading that RFC 9112 leaves to a parser that forgives nothing.
    pub fn requests(&self) -> Result<Vec<WireRequest>, String> {
        let mut requests = Vec::new();
        for bytes in self.connections() {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (request, left) = WireRequest::parse(rest)
                    .map_err(|e| format!("{e}: {:?}", String::from_utf8_lossy(&bytes)))?;
                requests.push(request);
                rest = left;
            }
        }
        Ok(requests)
    }
}

/// A request in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireRequest {
    /// `POST /x HTTP/1.1`
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether its end has come.
    pub complete: bool,
}

impl WireRequest {
    /// The header's values, comma-separated; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let values = self.headers.iter().filter(|(n, _)| n == name);
        let values: Vec<_> = values.map(|(_, v)| v.as_str()).collect();
        values.join(",")
    }

    fn parse(bytes: &[u8]) -> Result<(WireRequest, &[u8]), String> {
        let length = head(bytes).ok_or("a head without end")?;
        let (text, rest) = bytes.split_at(length);
        let text = std::str::from_utf8(text).map_err(|_| "a head that is no text")?;
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let words: Vec<_> = line.split(' ').collect();
        if words.len() != 3 || words[2] != "HTTP/1.1" || !words[1].starts_with(['/', '*']) {
            return Err(format!("request line {line:?}"));
        }
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or(format!("header {line:?}"))?;
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if name.is_empty() || !name.bytes().all(token) {
                return Err(format!("header {line:?}"));
            }
            if value.contains(['\r', '\n', '\0']) {
                return Err(format!("header {line:?}"));
            }
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = WireRequest {
            line,
            headers,
            body: Vec::new(),
            complete: true,
        };
        let rest = request.read_body(rest)?;
        Ok((request, rest))
    }

    fn read_body<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], String> {
        let count = |name: &str| self.headers.iter().filter(|(n, _)| n == name).count();
        let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
        match (lengths, codings) {
            (0, 0) => Ok(rest),
            (1, 0) => {
                let text = self.header("content-length");
                if !text.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(format!("content-length {text:?}"));
                }
                let length = text.parse::<usize>().map_err(|e| e.to_string())?;
                self.complete = rest.len() >= length;
                let (body, rest) = rest.split_at(length.min(rest.len()));
                self.body = body.to_vec();
                Ok(rest)
            }
            (0, 1) if self.header("transfer-encoding") == "chunked" => self.read_chunks(rest),
            _ => Err(format!(
                "{lengths} content-length and {codings} transfer-encoding"
            )),
        }
    }

    fn read_chunks<'a>(&mut self, mut rest: &'a [u8]) -> Result<&'a [u8], String> {
        loop {
            let Some(end) = find(rest, b"\r\n") else {
                self.complete = false;
                return Ok(&[]);
            };
            let size = String::from_utf8_lossy(&rest[..end]).into_owned();
            if size.is_empty() || !size.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(format!("chunk size {size:?}"));
            }
            let size = usize::from_str_radix(&size, 16).map_err(|e| e.to_string())?;
            rest = &rest[end + 2..];
            if size == 0 {
                // The trailers are the lines up to an empty one.
                loop {
                    let Some(end) = find(rest, b"\r\n") else {
                        self.complete = false;
                        return Ok(&[]);
                    };
                    rest = &rest[end + 2..];
                    if end == 0 {
                        return Ok(rest);
                    }
                }
            }
            if rest.len() < size + 2 {
                self.complete = false;
                self.body.extend_from_slice(&rest[..size.min(rest.len())]);
                return Ok(&[]);
            }
            if &rest[size..size + 2] != b"\r\n" {
                return Err("a chunk that is longer than it says".to_owned());
            }
            self.body.extend_from_slice(&rest[..size]);
            rest = &rest[size + 2..];
        }
    }
}

/// The length of the head, if it is complete.
fn head(bytes: &[u8]) -> Option<usize> {
    find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// What a script does after its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// FIN.
    Close,
    /// RST.
    Reset,
    /// Waits for the next request.
    Wait,
}

/// A backend that answers every head with bytes of the story's choice.
#[derive(Clone)]
pub struct Script {
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Script {
    pub async fn start<F>(address: SocketAddr, answer: F) -> Script
    where
        F: Fn(&str) -> (Vec<u8>, Then) + Send + Sync + 'static,
    {
        let script = Script {
            heads: Arc::default(),
            connections: Arc::default(),
        };
        let (owned, answer) = (script.clone(), Arc::new(answer));
        App::tcp(address, move |tcp| owned.clone().play(tcp, answer.clone())).await;
        script
    }

    async fn play<F>(self, mut tcp: TcpStream, answer: Arc<F>)
    where
        F: Fn(&str) -> (Vec<u8>, Then) + Send + Sync + 'static,
    {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            let length = loop {
                if let Some(length) = head(&bytes) {
                    break length;
                }
                match tcp.read(&mut buffer).await {
                    Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
                    _ => return,
                }
            };
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            bytes.drain(..length);
            self.heads.lock().push(text.clone());
            let (reply, then) = answer(&text);
            let _ = tcp.write_all(&reply).await;
            if then == Then::Wait {
                continue;
            }
            // What was written shall be seen before the end is; a reset throws away what isn't read yet.
            if then == Then::Reset {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let _ = tcp.set_zero_linger();
            } else {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            return;
        }
    }

    /// The heads so far.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().clone()
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<WireRequest, String> {
        let (request, rest) = WireRequest::parse(text.as_bytes())?;
        match rest {
            [] => Ok(request),
            _ => Err("more than one".to_owned()),
        }
    }

    #[test]
    fn one_reading_only() {
        let request = read(
            "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nt: 1\r\n\r\n",
        );
        assert_eq!(request.map(|r| r.body).as_deref(), Ok(&b"ab"[..]));
        let request = read("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nab");
        assert_eq!(request.map(|r| r.complete), Ok(false));
        for text in [
            "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
            "GET / HTTP/1.1\r\na: b\r\n c: d\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
            "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\na",
            "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\naGET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
