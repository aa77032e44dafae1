//! What of an informational head is for the client, and how much.

use http::{HeaderName, StatusCode, header};
use waypoint_hbone::messages::fields::is_connections;

/// Bytes of heads that may wait for a client, or that an HTTP/2 client is sent for one request.
pub(super) const MAX_UNWRITTEN: usize = 64 * 1024;

/// 101 is an answer.
pub(super) fn is_passed_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 100 | 102..=104)
}

/// Without what belongs to the upstream's connection, and what would say that there is a body.
pub(super) fn is_clients(name: &HeaderName) -> bool {
    !is_connections(name) && *name != header::CONTENT_LENGTH
}
