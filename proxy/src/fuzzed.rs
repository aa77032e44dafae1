//! Readers of what peers send, for the fuzz targets of `tests/fuzz`: nobody else needs them from outside.

use waypoint_config::model::http::path_normalization::PathNormalization;

use crate::downstream::http::head::bytes::Head;
use crate::downstream::http::head::path_normalization::{Normalized, normalize};

/// The one form of a path; `None`: it is refused.
#[must_use]
pub fn normalized(path: &str, options: PathNormalization) -> Option<String> {
    match normalize(path, options) {
        Normalized::Path(path) => Some(path.into_owned()),
        Normalized::Redirect(path) => Some(path),
        Normalized::Reject => None,
    }
}

/// Where a head of HTTP/1 ends; `None`: its end hasn't come.
#[must_use]
pub fn head_length(bytes: &[u8]) -> Option<usize> {
    let head = Head::parse(bytes)?;
    let _ = head.judge();
    let _ = head.with_escaped_target(bytes);
    Some(head.length)
}
