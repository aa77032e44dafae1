//! The head of an HTTP/1 request as bytes, before hyper reads it: what its body is, and what hyper and the
//! `http` crate would do otherwise than Envoy.
//!
//! - `content-length` beside `transfer-encoding` is refused. RFC 9112 §6.1 allows a proxy to let the coding
//!   win; Envoy refuses, and so does whoever tests for smuggling.
//! - A transfer coding that isn't `chunked` alone is refused. hyper takes `gzip, chunked`, and as the header
//!   goes no further, nobody would know that what arrives is compressed.
//! - A head may be exactly as large as Envoy lets it be, from its first byte to its empty line.
//! - Target bytes that Envoy takes and `http::Uri` doesn't are escaped; nothing else is.
//!
//! Lines end with LF, with or without CR, as for hyper. A head that hyper will refuse anyway is called
//! unreadable, and left to it.

use std::ops::Range;

use crate::upstream::connection::expectation::{BEGUN, WAITS};

/// What a head may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub(crate) bytes: usize,
    pub(crate) headers: usize,
    /// Whether expectations are hidden from hyper.
    pub(crate) mark_expectations: bool,
}

impl HeadLimits {
    /// Whether a head that begins so is too large; hyper counts the headers of one that is whole.
    pub(crate) fn exceeded_by(&self, bytes: &[u8]) -> bool {
        bytes.len() > self.bytes
            || memchr::memchr_iter(b'\n', bytes).count() > self.headers.saturating_add(2)
    }
}

/// Why a head that hyper would take is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// 431.
    TooLarge,
    /// `content-length` and `transfer-encoding`.
    TwoLengths,
    /// A `transfer-encoding` that isn't `chunked`.
    Coding,
}

/// What follows a head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Body(u64),
    Chunked,
    Rejected(Rejection),
    /// hyper refuses it.
    Unreadable,
}

/// A whole head.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// With the empty line at its end.
    pub(crate) length: usize,
    target: Range<usize>,
    http11: bool,
    content_length: Option<u64>,
    has_length: bool,
    codings: u32,
    chunked: bool,
    unreadable: bool,
    /// Where the value `100-continue` stands.
    expectation: Option<usize>,
}

impl Head {
    /// `None`: its end hasn't come.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Head> {
        let first = memchr::memchr(b'\n', bytes)?;
        let mut head = Head::default();
        head.read_request_line(trim_cr(&bytes[..first]));
        let mut at = first + 1;
        loop {
            let rest = bytes.get(at..)?;
            let line = &rest[..memchr::memchr(b'\n', rest)?];
            let start = at;
            at += line.len() + 1;
            match line {
                [] | [b'\r'] => {
                    head.length = at;
                    return Some(head);
                }
                [b'c' | b'C' | b't' | b'T' | b'e' | b'E', ..] => head.read_header(line, start),
                _ => {}
            }
        }
    }

    fn read_request_line(&mut self, line: &[u8]) {
        let mut spaces = memchr::memchr_iter(b' ', line);
        let (Some(first), Some(second)) = (spaces.next(), spaces.next()) else {
            self.unreadable = true;
            return;
        };
        self.target = first + 1..second;
        self.http11 = &line[second + 1..] == b"HTTP/1.1";
    }

    fn read_header(&mut self, line: &[u8], start: usize) {
        if let Some(value) = value_of(line, b"content-length:") {
            let length = digits(value);
            self.unreadable |= length.is_none() || self.has_length && length != self.content_length;
            self.content_length = length;
            self.has_length = true;
        } else if let Some(value) = value_of(line, b"transfer-encoding:") {
            self.chunked = value.eq_ignore_ascii_case(b"chunked");
            self.codings += 1;
        } else if let Some(value) = value_of(line, b"expect:") {
            let wanted = value.eq_ignore_ascii_case(b"100-continue");
            let offset = value.as_ptr().addr() - line.as_ptr().addr();
            self.expectation = wanted.then_some(start + offset);
        }
    }

    pub(crate) fn judge(&self) -> Judgement {
        if self.codings == 0 {
            return match self.unreadable {
                true => Judgement::Unreadable,
                false => Judgement::Body(self.content_length.unwrap_or(0)),
            };
        }
        if self.has_length {
            Judgement::Rejected(Rejection::TwoLengths)
        } else if self.unreadable || !self.http11 {
            // HTTP/1.0 knows no codings.
            Judgement::Unreadable
        } else if self.codings == 1 && self.chunked {
            Judgement::Chunked
        } else {
            Judgement::Rejected(Rejection::Coding)
        }
    }

    /// Whether the client waits before it sends its body. HTTP/1.0 doesn't know that.
    pub(crate) fn expects(&self) -> bool {
        self.http11 && self.expectation.is_some()
    }

    /// Hides the expectation from hyper. `bytes` has what came after the head, too.
    pub(crate) fn mark_expectation(&self, bytes: &mut [u8]) {
        let waits = bytes.len() == self.length;
        if let Some(byte) = self.expectation.and_then(|at| bytes.get_mut(at)) {
            *byte = if waits { WAITS } else { BEGUN };
        }
    }

    /// The head with a target that `http::Uri` takes; `None`: it does already, or never will.
    pub(crate) fn with_escaped_target(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let target = bytes.get(self.target.clone())?;
        if !target
            .iter()
            .any(|b| matches!(b, b'"' | b'<' | b'>' | b'`'))
        {
            return None;
        }
        let path = path_start(target)?;
        let mut head = bytes.get(..self.target.start + path)?.to_vec();
        let mut query = false;
        for &byte in target.get(path..)? {
            query |= byte == b'?';
            match byte {
                b'<' | b'>' => head.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                b'"' if query => head.extend_from_slice(b"%22"),
                b'`' if !query => head.extend_from_slice(b"%60"),
                _ => head.push(byte),
            }
        }
        head.extend_from_slice(bytes.get(self.target.end..self.length)?);
        (head.len() > self.length).then_some(head)
    }
}

/// Where a target's path or query begins: in origin form, or after the authority.
fn path_start(target: &[u8]) -> Option<usize> {
    if target.first() == Some(&b'/') {
        return Some(0);
    }
    let authority = memchr::memmem::find(target, b"://")? + 3;
    let path = memchr::memchr2(b'/', b'?', target.get(authority..)?)?;
    Some(authority + path)
}

/// Whether hyper could still take a head that begins so; what it refuses it shall refuse at once.
pub(crate) fn may_become_head(bytes: &[u8]) -> bool {
    let (first, rest) = match memchr::memchr(b'\n', bytes) {
        Some(end) => {
            let mut head = Head::default();
            let line = trim_cr(&bytes[..end]);
            head.read_request_line(line);
            let version = line.get(head.target.end + 1..).unwrap_or_default();
            if head.unreadable || version != b"HTTP/1.1" && version != b"HTTP/1.0" {
                return false;
            }
            (line, &bytes[end + 1..])
        }
        None => (bytes.strip_suffix(b"\r").unwrap_or(bytes), &[][..]),
    };
    let method = first.iter().take_while(|b| is_token(**b)).count();
    let after = first.get(method..).unwrap_or_default();
    if method == 0
        || !after.iter().all(|b| *b >= b' ' && *b != 0x7f)
        || after.first().is_some_and(|b| *b != b' ')
    {
        return false;
    }
    // The last line is whatever has come of it.
    let mut lines: Vec<&[u8]> = rest.split(|b| *b == b'\n').collect();
    lines.pop();
    lines.into_iter().map(trim_cr).all(|line| {
        let name = line.iter().take_while(|b| is_token(**b)).count();
        let value = line.get(name + 1..).unwrap_or_default();
        name > 0
            && line.get(name) == Some(&b':')
            && value
                .iter()
                .all(|b| *b == b'\t' || *b >= b' ' && *b != 0x7f)
    })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn trim_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The value of a header's line, if the name is this one (with its colon, in lower case).
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, value) = line.split_at_checked(name.len())?;
    found.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// As hyper reads a length: digits only, and not beyond 64 bits.
fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // `u64::MAX` and the number before it are hyper's marks.
    std::str::from_utf8(value)
        .ok()?
        .parse()
        .ok()
        .filter(|n| *n < u64::MAX - 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn escaped(target: &[u8]) -> Option<Vec<u8>> {
        let head = [b"GET ", target, b" HTTP/1.1\r\na: <\"\r\n\r\n"].concat();
        let escaped = Head::parse(&head).unwrap().with_escaped_target(&head)?;
        let target = escaped.strip_prefix(b"GET ").unwrap();
        Some(
            target
                .strip_suffix(b" HTTP/1.1\r\na: <\"\r\n\r\n")
                .unwrap()
                .to_vec(),
        )
    }

    /// What is escaped is what `http::Uri` refuses, byte by byte, and no more.
    #[test]
    fn exactly_what_a_uri_refuses_is_escaped() {
        for byte in (0x21..=0xff).filter(|b| *b != 0x7f) {
            for before in [&b"/a"[..], b"/a?q=", b"http://x/a", b"http://x?q="] {
                let raw = [before, &[byte], b"z"].concat();
                let taken = http::Uri::try_from(&raw[..]).is_ok();
                let escaped = escaped(&raw);
                if byte < 0x80 {
                    let wanted = [before, format!("%{byte:02X}").as_bytes(), b"z"].concat();
                    assert_eq!(escaped, (!taken).then_some(wanted), "{byte:#x} {before:?}");
                } else {
                    assert_eq!(escaped, None);
                }
            }
        }
        assert_eq!(escaped(b"<>"), None, "no path");
        assert_eq!(escaped(b"/a\"b?\"").unwrap(), b"/a\"b?%22");
    }

    #[test]
    fn a_beginning_that_is_no_heads_is_told_at_once() {
        for text in [
            "G",
            "GET",
            "GET /",
            "GET / HTTP/1.1",
            "GET / HTTP/1.0\r\n",
            "GET / HTTP/1.1\r\na: b\r\nc",
            "\r",
        ] {
            let possible = text != "\r";
            assert_eq!(may_become_head(text.as_bytes()), possible, "{text:?}");
        }
        for text in [
            "\x16\x03\x01",
            "GE(",
            "GET /\0",
            "GET /\r\n",
            "GET / HTTP/2.0\r\n",
            "GET  / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\na b: c\r\n",
            "GET / HTTP/1.1\r\n b\r\n",
        ] {
            assert!(!may_become_head(text.as_bytes()), "{text:?}");
        }
    }
}
