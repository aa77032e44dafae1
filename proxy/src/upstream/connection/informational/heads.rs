//! What of an informational head is for the client, and how much.

use http::{HeaderName, StatusCode, header};

/// Bytes of heads that may wait for a client, or that an HTTP/2 client is sent for one request.
pub(super) const MAX_UNWRITTEN: usize = 64 * 1024;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// 101 is an answer.
pub(super) fn is_passed_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 100 | 102..=104)
}

/// Without what belongs to the upstream's connection, and what would say that there is a body.
pub(super) fn is_clients(name: &HeaderName) -> bool {
    *name != header::CONNECTION
        && *name != header::TRANSFER_ENCODING
        && *name != header::CONTENT_LENGTH
        && *name != header::UPGRADE
        && *name != KEEP_ALIVE
        && *name != PROXY_CONNECTION
}
