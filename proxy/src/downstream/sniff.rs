//! Telling HTTP/1, HTTP/2 and other protocols apart by their first bytes, where configuration asks for it.
//!
//! The bytes looked at go back to the stream. A client that says nothing is not waited for beyond the
//! caller's limit, so a server that speaks first gets its turn.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use waypoint_config::model::listener::filter_chain_matcher::ApplicationProtocol;
use waypoint_hbone::tunnel::stream::TunnelStream;

/// The HTTP/2 connection preface (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line's method and target may be long; past this many bytes it is no HTTP that we know.
const MAX_LOOK: usize = 8 * 1024;

/// How long a sniffed port waits for the client's first bytes before it takes the stream for a protocol
/// in which the server speaks first. (Envoy waits 15 s, and closes then.)
pub(crate) const FIRST_BYTES: Duration = Duration::from_secs(1);

/// Reads until the protocol is certain. The end of the stream and an error make it `Unknown`.
pub(crate) async fn protocol(stream: &mut TunnelStream) -> ApplicationProtocol {
    let mut seen = BytesMut::new();
    let verdict = loop {
        match std::future::poll_fn(|cx| stream.poll_data(cx)).await {
            Some(Ok(bytes)) => seen.extend_from_slice(&bytes),
            _ => break ApplicationProtocol::Unknown,
        }
        if let Some(verdict) = look(&seen) {
            break verdict;
        }
    };
    put_back(stream, seen.freeze());
    verdict
}

/// Whether an HTTP stream begins with the HTTP/2 preface. Reads as little as decides it.
pub(crate) async fn is_http2(stream: &mut TunnelStream) -> bool {
    let mut first = Bytes::new();
    loop {
        match std::future::poll_fn(|cx| stream.poll_data(cx)).await {
            // One chunk nearly always: it goes back without a copy.
            Some(Ok(bytes)) if first.is_empty() => first = bytes,
            Some(Ok(bytes)) => first = [first, bytes].concat().into(),
            _ => break,
        }
        if first.len() >= PREFACE.len() || !PREFACE.starts_with(&first) {
            break;
        }
    }
    let http2 = first.starts_with(PREFACE);
    put_back(stream, first);
    http2
}

pub(crate) fn put_back(stream: &mut TunnelStream, bytes: Bytes) {
    if !bytes.is_empty() {
        stream.unread(bytes);
    }
}

/// What the bytes so far say; `None`: more are needed.
fn look(bytes: &[u8]) -> Option<ApplicationProtocol> {
    if bytes.starts_with(PREFACE) {
        return Some(ApplicationProtocol::H2c);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let line = match bytes.iter().position(|b| *b == b'\n') {
        Some(end) => &bytes[..end],
        None if bytes.len() > MAX_LOOK || !starts_like_a_method(bytes) => {
            return Some(ApplicationProtocol::Unknown);
        }
        None => return None,
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(if !starts_like_a_method(line) {
        ApplicationProtocol::Unknown
    } else if line.ends_with(b" HTTP/1.1") {
        ApplicationProtocol::Http11
    } else if line.ends_with(b" HTTP/1.0") {
        ApplicationProtocol::Http10
    } else {
        ApplicationProtocol::Unknown
    })
}

/// A token of up to 32 characters, followed by a space if there is more (RFC 9110 §5.6.2).
fn starts_like_a_method(bytes: &[u8]) -> bool {
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let length = bytes.iter().take_while(|b| token(b)).count();
    length > 0 && length <= 32 && bytes.get(length).is_none_or(|next| *next == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        use ApplicationProtocol::*;
        for (bytes, verdict) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Http11)),
            (b"PURGE /x HTTP/1.0\n", Some(Http10)),
            (b"GET / HT", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(H2c)),
            (b"PRI", None),
            (b"P", None),
            (b"PRINT / HTTP/1.1\r\n", Some(Http11)),
            (b"\x16\x03\x01", Some(Unknown)),
            (b"EHLO mail\r\n", Some(Unknown)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Unknown)),
            (b"GET / HTTP/3.0\r\n", Some(Unknown)),
        ] {
            assert_eq!(look(bytes), verdict, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn an_endless_line_is_not_waited_for() {
        let mut line = b"GET /".to_vec();
        line.resize(MAX_LOOK + 1, b'a');
        assert_eq!(look(&line), Some(ApplicationProtocol::Unknown));
    }
}
