//! The server name in a TLS ClientHello, read from the first bytes of a stream (RFC 8446 §4.1.2, RFC 6066 §3).
//!
//! Stricter than the servers behind may be: a hello with two names, or with what is no name, has none that a policy
//! could be told. What is encrypted in it (ECH) isn't seen: the name is the outer one. The name is in lower case, as
//! with Envoy.

use std::sync::Arc;

/// The first byte of a TLS handshake: a record of type 22.
pub const HANDSHAKE: u8 = 22;
/// Envoy's bound of the bytes up to the hello's end, heads of records included.
pub const MAX_HELLO: usize = 16 * 1024;

const RECORD_HEAD: usize = 5;
const MAX_RECORD: usize = 1 << 14;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What the first bytes of a stream are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientHello {
    /// The bytes so far don't decide; at least so many are needed, from the stream's beginning.
    Needs(usize),
    /// It doesn't begin as TLS does.
    NotTls,
    /// A hello, and whom it is for, if it says.
    Complete(Option<Arc<str>>),
    /// It begins as TLS does, and can't be read.
    Malformed(&'static str),
}

/// Looks at the bytes that a stream begins with.
#[must_use]
pub fn look(bytes: &[u8]) -> ClientHello {
    match bytes.first() {
        None => return ClientHello::Needs(RECORD_HEAD),
        Some(&HANDSHAKE) => {}
        Some(_) => return ClientHello::NotTls,
    }
    match assemble(bytes) {
        Ok(hello) => match server_name(&hello) {
            Some(name) => ClientHello::Complete(name),
            None => ClientHello::Malformed("its fields are not what they should be"),
        },
        Err(Unfinished::Needs(length)) => ClientHello::Needs(length),
        Err(Unfinished::Malformed(reason)) => ClientHello::Malformed(reason),
    }
}

enum Unfinished {
    Needs(usize),
    Malformed(&'static str),
}

/// The hello's body, from the records that it is in.
fn assemble(bytes: &[u8]) -> Result<Vec<u8>, Unfinished> {
    let mut message = Vec::new();
    let mut at = 0;
    loop {
        let Some((head, rest)) = bytes.get(at..).and_then(<[u8]>::split_first_chunk) else {
            return Err(Unfinished::Needs(at + RECORD_HEAD));
        };
        let [kind, major, _, high, low] = *head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != HANDSHAKE || major != 3 {
            return Err(Unfinished::Malformed("a record isn't one of a handshake"));
        }
        if length == 0 || length > MAX_RECORD {
            return Err(Unfinished::Malformed("a record's length"));
        }
        let whole = at + RECORD_HEAD + length;
        if whole > MAX_HELLO {
            return Err(Unfinished::Malformed("it is too long"));
        }
        let Some(fragment) = rest.get(..length) else {
            return Err(Unfinished::Needs(whole));
        };
        message.extend_from_slice(fragment);
        at = whole;
        if message.first() != Some(&CLIENT_HELLO) {
            return Err(Unfinished::Malformed("it begins with another message"));
        }
        if let [_, a, b, c, body @ ..] = message.as_slice() {
            let expected = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if body.len() > expected {
                return Err(Unfinished::Malformed("more follows it in its record"));
            }
            if body.len() == expected {
                return Ok(message.split_off(4));
            }
            if expected > MAX_HELLO {
                return Err(Unfinished::Malformed("it is too long"));
            }
        }
    }
}

/// The name that a hello's body has; the outer `None`: it is malformed.
fn server_name(body: &[u8]) -> Option<Option<Arc<str>>> {
    let mut hello = Reader(body);
    hello.take(2 + 32)?; // version, random
    let session = hello.vector8()?;
    let suites = hello.vector16()?;
    let compression = hello.vector8()?;
    if session.len() > 32 || suites.len() < 2 || suites.len() % 2 != 0 || compression.is_empty() {
        return None;
    }
    if hello.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Reader(hello.vector16()?);
    if !hello.0.is_empty() {
        return None;
    }
    let mut name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector16()?;
        if kind == SERVER_NAME && name.replace(host_name(content)?).is_some() {
            return None;
        }
    }
    Some(name)
}

/// The one name of a list of names.
fn host_name(extension: &[u8]) -> Option<Arc<str>> {
    let mut extension = Reader(extension);
    let mut list = Reader(extension.vector16()?);
    let &[kind] = list.take(1)? else {
        return None;
    };
    let name = list.vector16()?;
    let one = kind == HOST_NAME && list.0.is_empty() && extension.0.is_empty();
    let letters = |label: &[u8]| {
        let letter = |b: &u8| b.is_ascii_alphanumeric() || b"-_".contains(b);
        !label.is_empty() && label.iter().all(letter)
    };
    if !one || name.len() > 255 || !name.split(|b| *b == b'.').all(letters) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?;
    Some(name.to_ascii_lowercase().into())
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*taken))
    }

    /// Bytes after their length in one byte.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let &[length] = self.take(1)? else {
            return None;
        };
        self.take(length.into())
    }

    /// Bytes after their length in two bytes.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector16(content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes()[..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), vector16(content)].concat()
    }

    fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
        let list = names
            .iter()
            .flat_map(|(kind, name)| [vec![*kind], vector16(name)].concat());
        extension(SERVER_NAME, &vector16(&list.collect::<Vec<_>>()))
    }

    /// The message with these extensions.
    fn message(extensions: &[u8]) -> Vec<u8> {
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[0],
            &[0, 2, 0x13, 1],
            &[1, 0],
            &vector16(extensions),
        ]
        .concat();
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&[CLIENT_HELLO], &length[1..], &body].concat()
    }

    /// In records of so many bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [vec![HANDSHAKE, 3, 1], vector16(part)].concat();
        message.chunks(size).flat_map(record).collect()
    }

    fn complete(name: &str) -> ClientHello {
        ClientHello::Complete(Some(name.into()))
    }

    #[test]
    fn a_name_is_found_however_the_hello_is_cut() {
        let other = extension(10, &[0, 2, 0, 29]);
        let hello = message(&[other.clone(), names(&[(0, b"Web.Example.com")]), other].concat());
        for size in [MAX_RECORD, 100, 7, 1] {
            let bytes = records(&hello, size);
            assert_eq!(look(&bytes), complete("web.example.com"), "{size}");
            for end in 0..bytes.len() {
                let needed = match look(&bytes[..end]) {
                    ClientHello::Needs(needed) => needed,
                    other => panic!("{end} of {}: {other:?}", bytes.len()),
                };
                assert!(end < needed && needed <= bytes.len(), "{end}: {needed}");
            }
            // What comes after it is another's.
            let more = [&bytes[..], &[20, 3, 3, 0, 1, 1]].concat();
            assert_eq!(look(&more), complete("web.example.com"));
        }
    }

    #[test]
    fn a_hello_may_have_no_name() {
        for extensions in [vec![], extension(43, &[2, 3, 4])] {
            let bytes = records(&message(&extensions), MAX_RECORD);
            assert_eq!(look(&bytes), ClientHello::Complete(None));
        }
        // TLS 1.0 knows no extensions.
        let bare = [&[1, 0, 0, 41, 3, 1][..], &[7; 32], &[0, 0, 2, 0, 5, 1, 0]].concat();
        assert_eq!(look(&records(&bare, 9)), ClientHello::Complete(None));
    }

    #[test]
    fn other_protocols_are_known_by_their_first_byte() {
        for bytes in [&b"GET / HTTP/1.1"[..], b"\x80\x2e\x01", b"\x17\x03\x03"] {
            assert_eq!(look(bytes), ClientHello::NotTls);
        }
        assert_eq!(look(b""), ClientHello::Needs(5));
    }

    #[test]
    fn what_is_no_hello_has_no_name() {
        let long = [b'a'; 256];
        let two = [names(&[(0, b"a.b")]), names(&[(0, b"c.d")])].concat();
        let bad_names: Vec<Vec<u8>> = vec![
            two,
            names(&[]),
            names(&[(0, b"a.b"), (0, b"c.d")]),
            names(&[(1, b"a.b")]),
            names(&[(0, b"")]),
            names(&[(0, b"a.b.")]),
            names(&[(0, b"a..b")]),
            names(&[(0, b"a\0.b")]),
            names(&[(0, b"a b")]),
            names(&[(0, "\u{e4}.b".as_bytes())]),
            names(&[(0, &long)]),
            extension(SERVER_NAME, &[0, 9, 0, 0, 1, b'a']),
            extension(SERVER_NAME, &[]),
            vec![0, 0, 0],
        ];
        for extensions in bad_names {
            let bytes = records(&message(&extensions), MAX_RECORD);
            assert!(
                matches!(look(&bytes), ClientHello::Malformed(_)),
                "{extensions:?}"
            );
        }
        let good = message(&names(&[(0, b"a.b")]));
        let shorter = [&[1, 0, 0, 3][..], &good[4..]].concat();
        let server = [&[2][..], &good[1..]].concat();
        for bytes in [
            records(&shorter, MAX_RECORD),
            records(&server, MAX_RECORD),
            vec![22, 2, 0, 0, 1],
            vec![22, 3, 1, 0, 0],
            vec![22, 3, 1, 0xff, 0xff],
            vec![22, 3, 1, 0, 4, 1, 0xff, 0, 0],
            [&records(&good, 20)[..25], &[21, 3, 1, 0, 2, 1, 0]].concat(),
        ] {
            assert!(
                matches!(look(&bytes), ClientHello::Malformed(_)),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn a_hello_is_no_longer_than_it_may_be() {
        let padded = |length: usize| message(&extension(21, &vec![0; length]));
        let fits = records(&padded(MAX_HELLO - 100), MAX_RECORD);
        assert_eq!(look(&fits), ClientHello::Complete(None));
        let long = ClientHello::Malformed("it is too long");
        let bytes = records(&padded(MAX_HELLO), MAX_RECORD);
        assert_eq!(look(&bytes[..9]), long.clone());
        // Many records of one byte are long, too.
        let bytes = records(&padded(MAX_HELLO / 4), 1);
        assert_eq!(look(&bytes), long);
    }
}
