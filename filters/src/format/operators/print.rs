//! Appending values; `false` says that there is none.

use std::time::Duration;

use crate::decimal;

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
    decimal::number(out, value);
    true
}

pub(super) fn millis(out: &mut Vec<u8>, value: Option<Duration>) -> bool {
    value.is_some_and(|value| number(out, whole(value.as_millis())))
}

/// A count of a duration's units: one that doesn't fit took longer than anything here lasts.
pub(super) fn whole(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
