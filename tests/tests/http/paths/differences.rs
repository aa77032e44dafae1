//! What may differ from Envoy, and what Envoy is asked instead.

use std::fmt::Write as _;

use super::Outcome;

/// What is to come of a request here, if this came of it at Envoy. The rows of `docs/differences.md`.
pub(super) fn expected(theirs: &Outcome, mode: &str) -> Outcome {
    let Outcome::Sent(sent) = theirs else {
        return theirs.clone();
    };
    let mut words: Vec<String> = sent.split(' ').map(str::to_owned).collect();
    for target in &mut words[1..] {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&target[..], None),
        };
        let mut path = as_a_uri_has_it(path, PATH);
        if mode != "NONE" {
            path = without_dot_segments(&path);
        }
        if mode.contains("MERGE") && path == "//" {
            path = "/".to_owned();
        }
        let query = query.map(|query| format!("?{}", as_a_uri_has_it(query, QUERY)));
        *target = path + &query.unwrap_or_default();
    }
    Outcome::Sent(words.join(" "))
}

/// What Envoy is asked in place of a target, where only so its answer can be ours. With `NONE`, policies see
/// the escapes that [`as_a_uri_has_it`] makes of a path's bytes. A `\` ends the parameters of a dot segment
/// as `/` does; to Envoy it is a part of them.
pub(super) fn asked_of_envoy(mode: &str, target: &[u8]) -> Vec<u8> {
    let Ok(target) = std::str::from_utf8(target) else {
        return target.to_vec();
    };
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let path = match mode {
        "NONE" => as_a_uri_has_it(path, PATH),
        "DECODE_AND_MERGE_SLASHES" if path.contains(".;") => path
            .replace("%5c", "/")
            .replace("%5C", "/")
            .replace('\\', "/"),
        _ if path.contains(".;") => path.replace('\\', "/"),
        _ => path.to_owned(),
    };
    (path + query).into_bytes()
}

/// What a `http::Uri` can't hold in a path, and in a query.
pub(super) const PATH: &[char] = &['<', '>', '`'];
pub(super) const QUERY: &[char] = &['"', '<', '>'];

/// What `http::Uri` can't hold goes on as its escape, where Envoy sends it raw.
pub(super) fn as_a_uri_has_it(text: &str, unheld: &[char]) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match unheld.contains(&c) {
            true => write!(out, "%{:02X}", c as u32).unwrap(),
            false => out.push(c),
        }
    }
    out
}

/// A dot segment with parameters is one, where Envoy sees only some of them. Envoy removed the plain ones.
pub(super) fn without_dot_segments(path: &str) -> String {
    if !path.starts_with('/') {
        return path.to_owned();
    }
    let mut out: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (n, segment) in segments.iter().enumerate() {
        let name = segment.split(';').next().unwrap();
        match name {
            "." | ".." => {
                if name == ".." {
                    out.pop();
                }
                if n + 1 == segments.len() {
                    out.push("");
                }
            }
            _ => out.push(segment),
        }
    }
    format!("/{}", out.join("/"))
}
