//! One canonical path for policy, route and upstream.
//!
//! `BASE`, Istio's default, is Envoy's `normalize_path`: RFC 3986 §6.2.2 (percent-encoded unreserved
//! characters are decoded, dot segments are removed), and `\` is `/`. An escape that is none (`%2`) is
//! refused, where Envoy passes it on: decoding what follows it could make one.
//! A dot segment keeps its meaning with path parameters: `/user/..;x=y/admin` is `/admin`
//! (CVE-2026-73551). `MERGE_SLASHES` and `DECODE_AND_MERGE_SLASHES` add what their names say.
//! A path that is already canonical, which nearly all are, is recognised without an allocation.

use std::borrow::Cow;

use waypoint_config::model::path_normalization::{EscapedSlashes, PathNormalization};

/// What to do with a request's path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Normalized<'a> {
    /// Go on with this path (without query).
    Path(Cow<'a, str>),
    /// Answer 400.
    Reject,
    /// Answer with a redirect to this path.
    Redirect(String),
}

/// Normalizes the path part of a request target; `path` has no query.
pub(crate) fn normalize(path: &str, options: PathNormalization) -> Normalized<'_> {
    // A fragment never reaches a server (RFC 9110 §7.1); a path with one is a trick.
    if !path.starts_with('/') || path.contains('#') {
        return Normalized::Reject;
    }
    if is_canonical(path, options) {
        return Normalized::Path(Cow::Borrowed(path));
    }
    let unescaped = match unescape_slashes(path, options.escaped_slashes) {
        Some(unescaped) => unescaped,
        None => return Normalized::Reject,
    };
    let redirect = options.escaped_slashes == EscapedSlashes::UnescapeAndRedirect
        && matches!(unescaped, Cow::Owned(_));
    let mut result = unescaped.into_owned();
    if options.normalize {
        result = match canonicalize(&result) {
            Some(canonical) => canonical,
            None => return Normalized::Reject,
        };
    }
    if options.merge_slashes {
        result = merge_slashes(&result);
    }
    if redirect {
        return Normalized::Redirect(result);
    }
    Normalized::Path(Cow::Owned(result))
}

/// Whether no step would change the path: nothing escaped, no backslash, no dot after a slash, no
/// doubled slash that would be merged.
fn is_canonical(path: &str, options: PathNormalization) -> bool {
    let mut previous = 0u8;
    for &byte in path.as_bytes() {
        match byte {
            b'%' | b'\\' => return false,
            b'.' if previous == b'/' => return false,
            b'/' if previous == b'/' && options.merge_slashes => return false,
            0..=0x20 | 0x7f.. => return false,
            _ => previous = byte,
        }
    }
    true
}

/// Decodes `%2F` and `%5C`; `None`: the path has one and is to be rejected.
fn unescape_slashes(path: &str, action: EscapedSlashes) -> Option<Cow<'_, str>> {
    if action == EscapedSlashes::Keep {
        return Some(Cow::Borrowed(path));
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    let mut changed = false;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let decoded = match escape.get(1..3) {
            Some("2F" | "2f") => Some('/'),
            Some("5C" | "5c") => Some('\\'),
            _ => None,
        };
        match decoded {
            Some(_) if action == EscapedSlashes::Reject => return None,
            Some(slash) => {
                out.push(slash);
                changed = true;
                rest = escape.get(3..).unwrap_or_default();
            }
            None => {
                out.push('%');
                rest = escape.get(1..).unwrap_or_default();
            }
        }
    }
    if !changed {
        return Some(Cow::Borrowed(path));
    }
    out.push_str(rest);
    Some(Cow::Owned(out))
}

/// RFC 3986 §6.2.2; `None`: an escape that is none (`%zz`, a lone `%`), or an escaped NUL.
fn canonicalize(path: &str) -> Option<String> {
    let decoded = normalize_escapes(path)?;
    let mut out: Vec<&str> = Vec::new();
    let mut directory = true;
    for segment in decoded.split('/').skip(1) {
        directory = false;
        match segment.split(';').next() {
            Some(".") => directory = true,
            Some("..") => {
                out.pop();
                directory = true;
            }
            _ => out.push(segment),
        }
    }
    let mut result = String::with_capacity(decoded.len());
    for segment in &out {
        result.push('/');
        result.push_str(segment);
    }
    if directory || result.is_empty() {
        result.push('/');
    }
    Some(result)
}

fn normalize_escapes(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => out.push(b'/'),
            b'%' => {
                let (high, low) = (bytes.next()?, bytes.next()?);
                let value = hex(high)? * 16 + hex(low)?;
                match value {
                    0 => return None,
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        out.push(value);
                    }
                    // Its digits stay in the case they have.
                    _ => out.extend_from_slice(&[b'%', high, low]),
                }
            }
            0..=0x20 | 0x7f.. => push_escape(&mut out, byte),
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

fn push_escape(out: &mut Vec<u8>, value: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(b'%');
    out.push(DIGITS[usize::from(value >> 4)]);
    out.push(DIGITS[usize::from(value & 15)]);
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|d| d as u8)
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: PathNormalization = PathNormalization {
        normalize: true,
        merge_slashes: false,
        escaped_slashes: EscapedSlashes::Keep,
    };

    fn base(path: &str) -> String {
        match normalize(path, BASE) {
            Normalized::Path(path) => path.into_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_canonical_path_is_not_copied() {
        for path in ["/", "/a/b", "/a//b", "/a.b/c..d", "/a;v=1/b", "/~user/-_"] {
            assert_eq!(normalize(path, BASE), Normalized::Path(Cow::Borrowed(path)));
        }
    }

    #[test]
    fn base_is_rfc_3986_and_backslashes() {
        for (path, canonical) in [
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../a", "/a"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/a\\b", "/a/b"),
            ("/a\\..\\b", "/b"),
            ("/%61dmin", "/admin"),
            ("/%2e%2e/admin", "/admin"),
            ("/a%2fb", "/a%2fb"),
            ("/a%5cB", "/a%5cB"),
            ("/a%20b", "/a%20b"),
            ("/foo/..;/bar", "/bar"),
            ("/user/..;x=y/admin", "/admin"),
            ("/a/.;x/b", "/a/b"),
            ("/a/..x/b", "/a/..x/b"),
            ("/a//../b", "/a/b"),
            ("/ü", "/%C3%BC"),
        ] {
            assert_eq!(base(path), canonical, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_rejected() {
        for path in ["", "a", "*", "/a#b", "/a%zz", "/a%", "/a%0", "/a%00b"] {
            assert_eq!(normalize(path, BASE), Normalized::Reject, "{path}");
        }
    }

    #[test]
    fn the_other_levels_merge_and_decode_slashes() {
        let merge = PathNormalization {
            merge_slashes: true,
            ..BASE
        };
        assert_eq!(
            normalize("//a///b/", merge),
            Normalized::Path("/a/b/".into())
        );
        let decode = PathNormalization {
            escaped_slashes: EscapedSlashes::UnescapeAndForward,
            ..merge
        };
        assert_eq!(
            normalize("/a%2F..%5cb", decode),
            Normalized::Path("/b".into())
        );
        let reject = PathNormalization {
            escaped_slashes: EscapedSlashes::Reject,
            ..merge
        };
        assert_eq!(normalize("/a%2fb", reject), Normalized::Reject);
        assert_eq!(
            normalize("/a%20b", reject),
            Normalized::Path("/a%20b".into())
        );
        let redirect = PathNormalization {
            escaped_slashes: EscapedSlashes::UnescapeAndRedirect,
            ..merge
        };
        assert_eq!(
            normalize("/a%2fb", redirect),
            Normalized::Redirect("/a/b".into())
        );
    }

    #[test]
    fn normalizing_twice_changes_nothing() {
        for path in [
            "/a/..%2f/b",
            "/%2e/%2E%2e/x",
            "/a/b/../../..",
            "/..;/..;a/b",
        ] {
            let once = base(path);
            assert_eq!(base(&once), once, "{path}");
        }
    }
}
