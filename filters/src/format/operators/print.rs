//! Appending values; `false` says that there is none.

use std::io::Write as _;
use std::time::Duration;

pub(super) fn text(out: &mut Vec<u8>, value: Option<impl AsRef<[u8]>>) -> bool {
    match value {
        Some(value) => {
            out.extend_from_slice(value.as_ref());
            true
        }
        None => false,
    }
}

/// A text in which a blank would end a log's field.
pub(super) fn one_word(out: &mut Vec<u8>, value: Option<&str>) -> bool {
    let start = out.len();
    let found = text(out, value);
    for byte in out
        .iter_mut()
        .skip(start)
        .filter(|b| b.is_ascii_whitespace())
    {
        *byte = b'_';
    }
    found
}

pub(super) fn number(out: &mut Vec<u8>, value: u64) -> bool {
    write!(out, "{value}").is_ok()
}

pub(super) fn millis(out: &mut Vec<u8>, value: Option<Duration>) -> bool {
    value.is_some_and(|value| write!(out, "{}", value.as_millis()).is_ok())
}
