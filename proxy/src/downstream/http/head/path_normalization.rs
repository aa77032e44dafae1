//! One canonical path for policy, route and upstream.
//!
//! `BASE`, Istio's default, is what Envoy's `normalize_path` does, byte by byte: an escaped unreserved
//! character is decoded (RFC 3986 §6.2.2), a raw one that isn't a path's is escaped, `\` is `/`, dot segments
//! go, an escaped NUL is refused. So a rule for `/report%7Call` sees `/report|all`. Escapes that stay keep the
//! case of their digits, and what is no escape (`%zz`) stays as well: nothing that is decoded behind its `%`
//! makes one of it. `MERGE_SLASHES` and `DECODE_AND_MERGE_SLASHES` add what their names say, `NONE` does
//! nothing.
//!
//! Where Envoy's answer isn't canonical yet, ours goes on: a dot segment with path parameters is one
//! (CVE-2026-73551) however its dots and slashes are written, and a path of slashes alone merges to `/`.
//! `tests/tests/http/paths/mod.rs` holds both against each other.
//!
//! A path that is canonical already, which nearly all are, is seen to be so in one pass and not copied.

use std::borrow::Cow;

use waypoint_config::model::http::path_normalization::{EscapedSlashes, PathNormalization};

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

/// What normalizing does to a byte of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// It stays.
    Plain,
    Slash,
    Backslash,
    Percent,
    /// It becomes its escape.
    Escaped,
    /// No path has it.
    Foreign,
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = class_of(byte as u8);
        byte += 1;
    }
    classes
};

const fn class_of(byte: u8) -> Class {
    match byte {
        b'/' => Class::Slash,
        b'\\' => Class::Backslash,
        b'%' => Class::Percent,
        b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => Class::Escaped,
        0..=0x20 | 0x7f | b'#' | b'?' => Class::Foreign,
        _ => Class::Plain,
    }
}

/// Normalizes the path part of a request target; `path` has no query.
pub(crate) fn normalize(path: &str, options: PathNormalization) -> Normalized<'_> {
    if !path.starts_with('/') {
        return Normalized::Reject;
    }
    if is_canonical(path.as_bytes(), options) {
        return Normalized::Path(Cow::Borrowed(path));
    }
    change(path, options)
}

/// The steps in Envoy's order.
fn change(path: &str, options: PathNormalization) -> Normalized<'_> {
    let Some(mut result) = unescape_slashes(path, options.escaped_slashes) else {
        return Normalized::Reject;
    };
    let redirect = options.escaped_slashes == EscapedSlashes::UnescapeAndRedirect
        && matches!(result, Cow::Owned(_));
    if options.normalize {
        let Some(decoded) = normalize_bytes(&result) else {
            return Normalized::Reject;
        };
        result = Cow::Owned(remove_dot_segments(&decoded));
    }
    if options.merge_slashes {
        result = Cow::Owned(merge_slashes(&result));
    }
    if redirect {
        return Normalized::Redirect(result.into_owned());
    }
    Normalized::Path(result)
}

/// Whether no step would change the path.
fn is_canonical(path: &[u8], options: PathNormalization) -> bool {
    let keeps_slashes = options.escaped_slashes == EscapedSlashes::Keep;
    if !options.normalize {
        return keeps_slashes && !options.merge_slashes;
    }
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let stays = match CLASSES[usize::from(byte)] {
            Class::Plain => true,
            Class::Slash => {
                !(begins_with_dots(rest) || options.merge_slashes && rest.starts_with(b"/"))
            }
            Class::Percent => match escaped(rest) {
                None => true,
                Some(b'/' | b'\\') => keeps_slashes,
                Some(value) => value != 0 && !is_unreserved(value),
            },
            Class::Backslash | Class::Escaped | Class::Foreign => false,
        };
        if !stays {
            return false;
        }
    }
    true
}

/// Whether the segment that begins here is a dot segment, perhaps with parameters.
fn begins_with_dots(rest: &[u8]) -> bool {
    let Some(after) = rest.strip_prefix(b".") else {
        return false;
    };
    let after = after.strip_prefix(b".").unwrap_or(after);
    matches!(after.first(), None | Some(b'/' | b';'))
}

/// The value of the two digits behind a `%`; `None`: it begins no escape.
fn escaped(rest: &[u8]) -> Option<u8> {
    let (high, low) = (hex(*rest.first()?)?, hex(*rest.get(1)?)?);
    Some(high << 4 | low)
}

/// RFC 3986 §2.3: these mean the same escaped and raw.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
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

/// Brings every byte into its one form; `None`: an escaped NUL, or what no path has.
fn normalize_bytes(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len() + 16);
    // Where the last `%` stands that begins no escape.
    let mut lone = None;
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match CLASSES[usize::from(byte)] {
            Class::Plain | Class::Slash => out.push(byte),
            Class::Backslash => out.push(b'/'),
            Class::Escaped => push_escape(&mut out, byte),
            Class::Foreign => return None,
            Class::Percent => match escaped(rest) {
                None => {
                    lone = Some(out.len());
                    out.push(b'%');
                }
                Some(0) => return None,
                Some(value) => {
                    let (digits, after) = rest.split_at(2);
                    rest = after;
                    if is_unreserved(value) {
                        out.push(value);
                        quote_lone_percent(&mut out, lone, rest.first());
                    } else {
                        out.push(b'%');
                        out.extend_from_slice(digits);
                    }
                }
            },
        }
    }
    String::from_utf8(out).ok()
}

/// A character was decoded: if it completes an escape with a `%` that began none (`%%34%31` would be `%41`),
/// that `%` becomes `%25`. The escape's second digit may be `next`, which is still to come.
fn quote_lone_percent(out: &mut Vec<u8>, lone: Option<usize>, next: Option<&u8>) {
    let Some(lone) = lone.filter(|lone| lone + 3 >= out.len()) else {
        return;
    };
    let high = out.get(lone + 1).copied();
    let low = out.get(lone + 2).or(next).copied();
    if high.and_then(hex).is_some() && low.and_then(hex).is_some() {
        out.splice(lone + 1..lone + 1, *b"25");
    }
}

fn remove_dot_segments(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let mut directory = true;
    for segment in path.split('/').skip(1) {
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
    let mut result = String::with_capacity(path.len());
    for segment in &out {
        result.push('/');
        result.push_str(segment);
    }
    if directory || result.is_empty() {
        result.push('/');
    }
    result
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

    const NONE: PathNormalization = PathNormalization {
        normalize: false,
        merge_slashes: false,
        escaped_slashes: EscapedSlashes::Keep,
    };
    const BASE: PathNormalization = PathNormalization {
        normalize: true,
        ..NONE
    };
    const MERGE: PathNormalization = PathNormalization {
        merge_slashes: true,
        ..BASE
    };
    const DECODE: PathNormalization = PathNormalization {
        escaped_slashes: EscapedSlashes::UnescapeAndForward,
        ..MERGE
    };

    fn with(options: PathNormalization, path: &str) -> String {
        match normalize(path, options) {
            Normalized::Path(path) => path.into_owned(),
            other => format!("{other:?}"),
        }
    }

    fn base(path: &str) -> String {
        with(BASE, path)
    }

    #[test]
    fn a_canonical_path_is_not_copied() {
        for path in [
            "/",
            "/a/b",
            "/a//b",
            "/a.b/c..d",
            "/a;v=1/b",
            "/~user/-_",
            "/a%20b",
            "/a%7Cb%7c",
            "/.well-known/x",
            "/...",
            "/..a/.b;x",
            "/100%",
            "/a%zz",
            "/[a]",
            "/a%2Fb",
        ] {
            let normalized = normalize(path, BASE);
            assert!(
                matches!(normalized, Normalized::Path(Cow::Borrowed(p)) if p == path),
                "{path}: {normalized:?}"
            );
        }
    }

    /// What Envoy 1.40 makes of each byte between others, raw and escaped; `tests/tests/http/paths/mod.rs` asks it.
    #[test]
    fn every_byte_has_one_form() {
        for byte in 0..=255u8 {
            let (upper, lower) = (format!("%{byte:02X}"), format!("%{byte:02x}"));
            for escape in [&upper, &lower] {
                let path = format!("/a{escape}b");
                let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
                let expected = match byte {
                    0 => "Reject".to_owned(),
                    _ if unreserved => format!("/a{}b", char::from(byte)),
                    _ => path.clone(),
                };
                assert_eq!(base(&path), expected);
                assert_eq!(with(MERGE, &path), expected);
                let slash = matches!(byte, b'/' | b'\\');
                let decoded = if slash { "/a/b" } else { &expected };
                assert_eq!(with(DECODE, &path), decoded);
                assert_eq!(with(NONE, &path), path);
            }
            if !byte.is_ascii() {
                continue;
            }
            let path = format!("/a{}b", char::from(byte));
            let expected = match byte {
                // A `Uri` has none of these.
                0..=0x20 | 0x7f | b'#' | b'?' => "Reject".to_owned(),
                b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => format!("/a{upper}b"),
                b'\\' => "/a/b".to_owned(),
                _ => path.clone(),
            };
            for options in [BASE, MERGE, DECODE] {
                assert_eq!(with(options, &path), expected);
            }
            assert_eq!(with(NONE, &path), path);
        }
        assert_eq!(base("/p\u{f1}"), "/p%C3%B1");
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
            ("/foo/..;/bar", "/bar"),
            ("/user/..;x=y/admin", "/admin"),
            ("/user/%2e%2e;x=y/admin", "/admin"),
            ("/user\\..;x=y\\admin", "/admin"),
            ("/a/.;x/b", "/a/b"),
            ("/a/..x/b", "/a/..x/b"),
            ("/a/...;/b", "/a/...;/b"),
            ("/a//../b", "/a/b"),
            ("/x//..//y", "/x//y"),
            ("/a|b/../c|", "/c%7C"),
        ] {
            assert_eq!(base(path), canonical, "{path}");
        }
    }

    #[test]
    fn what_is_no_escape_stays_and_becomes_none() {
        for (path, canonical) in [
            ("/%", "/%"),
            ("/a%zzb", "/a%zzb"),
            ("/a%2", "/a%2"),
            ("/a%|b", "/a%%7Cb"),
            ("/a%2/../b", "/b"),
            ("/%%41", "/%A"),
            ("/%%7A", "/%z"),
            ("/%4%31", "/%2541"),
            ("/%%34%31", "/%2541"),
            ("/%%341", "/%2541"),
            ("/%%34%31%31", "/%25411"),
            ("/%2541", "/%2541"),
        ] {
            assert_eq!(base(path), canonical, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_rejected() {
        for path in ["", "a", "*", "/a#b", "/a%00b", "/a/..%00/b"] {
            assert_eq!(normalize(path, BASE), Normalized::Reject, "{path}");
        }
        assert_eq!(normalize("a", NONE), Normalized::Reject);
    }

    #[test]
    fn the_other_levels_merge_and_decode_slashes() {
        assert_eq!(with(MERGE, "//a///b/"), "/a/b/");
        assert_eq!(with(MERGE, "///"), "/");
        assert_eq!(with(DECODE, "/a%2F..%5cb"), "/b");
        assert_eq!(with(DECODE, "/a%5C..%5cb/%2f.."), "/b/");
        let merge_only = PathNormalization {
            merge_slashes: true,
            ..NONE
        };
        assert_eq!(with(merge_only, "/a//|/../b"), "/a/|/../b");
        let reject = PathNormalization {
            escaped_slashes: EscapedSlashes::Reject,
            ..MERGE
        };
        assert_eq!(normalize("/a%2fb", reject), Normalized::Reject);
        assert_eq!(with(reject, "/a%20b"), "/a%20b");
        let redirect = PathNormalization {
            escaped_slashes: EscapedSlashes::UnescapeAndRedirect,
            ..MERGE
        };
        assert_eq!(
            normalize("/a%2fb", redirect),
            Normalized::Redirect("/a/b".into())
        );
        assert_eq!(with(redirect, "/a|b"), "/a%7Cb");
    }

    /// Over all short paths of what matters: one pass is enough, and the fast one tells which need it.
    #[test]
    fn normalizing_twice_changes_nothing() {
        let pieces = [
            "/", ".", ";", "%", "2", "5", "e", "4", "\\", "|", "%2e", "%2F",
        ];
        let mut paths = vec!["/".to_owned()];
        let mut begin = 0;
        for _ in 0..4 {
            let end = paths.len();
            for at in begin..end {
                let longer: Vec<_> = pieces.iter().map(|p| format!("{}{p}", paths[at])).collect();
                paths.extend(longer);
            }
            begin = end;
        }
        for options in [BASE, MERGE, DECODE] {
            for path in &paths {
                let Normalized::Path(once) = change(path, options) else {
                    panic!("{path}");
                };
                assert_eq!(
                    once == *path,
                    is_canonical(path.as_bytes(), options),
                    "{path}"
                );
                assert!(is_canonical(once.as_bytes(), options), "{path}: {once}");
            }
        }
    }
}
