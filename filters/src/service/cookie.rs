//! Cookies as Envoy reads them of requests, and issues them: for hashes of routes, and for sessions.

use std::time::Duration;

use http::{HeaderMap, header};

use crate::xds::rejected::Refusal;

/// The value of the first cookie of this name.
#[must_use]
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let all = headers.get_all(header::COOKIE).iter();
    let mut cookies = all.flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    cookies.find_map(|cookie| {
        let cookie = cookie.trim_ascii_start();
        let value = cookie.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        let unquoted = value
            .strip_prefix(b"\"")
            .and_then(|v| v.strip_suffix(b"\""));
        Some(unquoted.unwrap_or(value))
    })
}

/// What may stand in a cookie without ending it.
///
/// # Errors
/// The text, by the field that has it.
pub fn check<'a>(field: &str, text: &'a str) -> Result<&'a str, Refusal> {
    match text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b';') {
        true => Ok(text),
        false => Err(Refusal::new(
            field,
            format!("{text:?} can't stand in a cookie"),
        )),
    }
}

/// What follows the value of a cookie that is issued: its closing quote, lifetime, path, and attributes with their values, if
/// they have any. A lifetime of less than a second is none.
///
/// # Errors
/// What of it can't stand in a cookie.
pub fn after_value<'a>(
    lifetime: Option<Duration>,
    path: &str,
    attributes: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<String, Refusal> {
    let mut after = String::from("\"");
    let seconds = lifetime.map(|lifetime| lifetime.as_secs());
    if let Some(seconds) = seconds.filter(|seconds| *seconds > 0) {
        after.push_str(&format!("; Max-Age={seconds}"));
    }
    if !path.is_empty() {
        after.push_str(&format!("; Path={}", check("path", path)?));
    }
    for (name, value) in attributes {
        after.push_str(&format!("; {}", check("attributes", name)?));
        if !value.is_empty() {
            after.push_str(&format!("={}", check("attributes", value)?));
        }
    }
    after.push_str("; HttpOnly");
    Ok(after)
}
