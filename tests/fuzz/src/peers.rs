//! What peers send: paths, heads, authorities, hellos, tokens and keys.

use std::net::SocketAddr;

use waypoint_config::model::http::path_normalization::{EscapedSlashes, PathNormalization};
use waypoint_config::standalone::state::issuers::keys_address;
use waypoint_filters::network::client_hello::{ClientHello, MAX_HELLO, look};
use waypoint_filters::security::jwt::keys::key_set::KeySet;
use waypoint_filters::security::jwt::token::Token;
use waypoint_hbone::authority::Authority;
use waypoint_proxy::fuzzed::{head_length, normalized};

use crate::corpus::files;
use crate::harness::fuzz;

fn modes() -> [PathNormalization; 5] {
    let none = PathNormalization::default();
    let base = PathNormalization {
        normalize: true,
        ..none
    };
    let merge = PathNormalization {
        merge_slashes: true,
        ..base
    };
    let decode = |escaped_slashes| PathNormalization {
        escaped_slashes,
        ..merge
    };
    [
        none,
        base,
        merge,
        decode(EscapedSlashes::UnescapeAndForward),
        decode(EscapedSlashes::Reject),
    ]
}

/// What policies see is what the upstream makes of the path, too: nothing is left to be normalized.
#[test]
fn path() {
    fuzz("path", &files("path"), |input| {
        let Ok(path) = std::str::from_utf8(input) else {
            return false;
        };
        let mut good = false;
        for mode in modes() {
            let Some(once) = normalized(path, mode) else {
                continue;
            };
            good = true;
            let again = normalized(&once, mode);
            assert_eq!(again.as_ref(), Some(&once), "{mode:?} {path:?}");
            assert!(once.starts_with('/'));
            let segments: Vec<_> = once.split('/').skip(1).collect();
            let dots = |s: &&str| matches!(s.split(';').next(), Some("." | ".."));
            assert!(!mode.normalize || !segments.iter().any(dots), "{once:?}");
            assert!(!mode.merge_slashes || !once.contains("//"), "{once:?}");
            let lower = once.to_ascii_lowercase();
            let slashes = lower.contains("%2f") || lower.contains("%5c");
            assert!(
                mode.escaped_slashes == EscapedSlashes::Keep || !slashes,
                "{once:?}"
            );
        }
        good
    });
}

/// A head has one end, however its bytes come.
#[test]
fn head() {
    fuzz("head", &files("head"), |input| {
        let length = head_length(input);
        assert!(length.is_none_or(|length| length <= input.len()));
        for end in [input.len() / 2, input.len().saturating_sub(1)] {
            if let Some(earlier) = head_length(&input[..end]) {
                assert_eq!(Some(earlier), length);
            }
        }
        length.is_some()
    });
}

/// An authority that is taken for an address is that address to the standard library, too.
#[test]
fn authority() {
    fuzz("authority", &files("authority"), |input| {
        let text = String::from_utf8_lossy(input);
        let read: Result<Authority, _> = text.parse();
        let standard: Result<SocketAddr, _> = text.parse();
        match &read {
            Ok(Authority::Address(address)) => assert_eq!(standard.ok(), Some(*address)),
            Ok(Authority::Host { .. }) => assert!(standard.is_err(), "{text:?}"),
            Err(_) => {}
        }
        assert!(read.as_ref().is_ok_and(|read| read.port() > 0) || read.is_err());
        read.is_ok()
    });
}

/// A hello says the same whatever follows it, and asks for no more than it may.
#[test]
fn hello() {
    let mut corpus: Vec<_> = files("hello").iter().map(|line| unhex(line)).collect();
    corpus.retain(|hello| !hello.is_empty());
    fuzz("hello", &corpus, |input| {
        let seen = look(input);
        match &seen {
            ClientHello::Needs(length) => {
                assert!(*length > input.len() && *length <= MAX_HELLO + 5);
            }
            ClientHello::Complete(name) => {
                let more = [input, &b"\x17\x03\x03\0\0"[..]].concat();
                assert_eq!(look(&more), seen);
                let name = name.as_deref().unwrap_or("x");
                assert!(name.bytes().all(|b| b.is_ascii_graphic()) && name.len() < 256);
            }
            ClientHello::NotTls | ClientHello::Malformed(_) => {}
        }
        for end in 0..input.len().min(64) {
            let earlier = look(&input[..end]);
            let decided = !matches!(earlier, ClientHello::Needs(_));
            assert!(!decided || earlier == seen, "{end}: {earlier:?}");
        }
        matches!(seen, ClientHello::Complete(_))
    });
}

/// Hexadecimal digits, of a line of text.
fn unhex(line: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = line
        .iter()
        .filter_map(|digit| char::from(*digit).to_digit(16))
        .map(|digit| u8::try_from(digit).unwrap())
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// No token that was changed is good.
#[test]
fn jwt() {
    let corpus = files("jwt");
    let keys = KeySet::parse(&files("jwks")[0]).unwrap();
    fuzz("jwt", &corpus, |input| {
        let text = String::from_utf8_lossy(input);
        let Ok(token) = Token::parse(&text) else {
            return false;
        };
        let good = keys.verify(&token).is_ok();
        assert!(
            !good || corpus.iter().any(|known| known.starts_with(token.signed())),
            "{text}"
        );
        assert!(text.starts_with(std::str::from_utf8(token.signed()).unwrap()));
        let _ = token.claims.check_time(1 << 40, 60);
        true
    });
}

#[test]
fn jwks() {
    let tokens: Vec<_> = files("jwt")
        .iter()
        .filter_map(|text| Token::parse(std::str::from_utf8(text).ok()?).ok())
        .collect();
    fuzz("jwks", &files("jwks"), |input| {
        let Ok(keys) = KeySet::parse(input) else {
            return false;
        };
        for token in &tokens {
            let _ = keys.verify(token);
        }
        true
    });
}

#[test]
fn issuer() {
    fuzz("issuer", &files("issuer"), |input| {
        let Ok(address) = keys_address(input) else {
            return false;
        };
        let uri: http::Uri = address.text.parse().unwrap();
        assert!(address.port > 0 && uri.host().is_some(), "{}", address.text);
        assert_eq!(address.tls, uri.scheme_str() == Some("https"));
        true
    });
}
