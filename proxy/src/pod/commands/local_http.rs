//! One HTTP request to a port of the pod, for commands that have no runtime.
//!
//! It is HTTP/1.0, so that the answer comes in one piece however it was made, and ends with the connection.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// An answer: status and body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Sends a request and reads the answer; each step may take `timeout`.
///
/// # Errors
/// Nobody is there, or what answers isn't HTTP.
pub(crate) fn exchange(
    authority: &str,
    method: &str,
    target: &str,
    body: &str,
    timeout: Duration,
) -> io::Result<Answer> {
    let mut tcp = connect(authority, timeout)?;
    tcp.set_read_timeout(Some(timeout))?;
    tcp.set_write_timeout(Some(timeout))?;
    let request = format!(
        "{method} {target} HTTP/1.0\r\nhost: {authority}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    tcp.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))
}

/// `localhost` may stand for an address that nobody listens on, beside one that somebody does.
fn connect(authority: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn parse(answer: &[u8]) -> Option<Answer> {
    const END: &[u8] = b"\r\n\r\n";
    let end = answer.windows(END.len()).position(|window| window == END)?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    Some(Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        body: answer.get(end + END.len()..)?.to_vec(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn head_and_body_are_told_apart() {
        let answer = parse(b"HTTP/1.0 200 OK\r\na: b\r\n\r\n\xffbody\r\n\r\n").unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, b"\xffbody\r\n\r\n");
        assert!(parse(b"HTTP/1.0 200 OK\r\n").is_none());
        assert!(parse(b"what?\r\n\r\n").is_none());
    }
}
