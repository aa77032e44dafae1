//! Header fields that are a connection's and not a message's: HTTP/2 has none of them (RFC 9113 §8.2.2).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
pub const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether a field of this name is a connection's. `te` may be a message's: a request may ask for trailers.
#[must_use]
pub fn is_connections(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

/// Takes them out, with those that `connection` names.
pub(super) fn strip_connection_fields(headers: &mut HeaderMap, of_request: bool) {
    if let Some(named) = headers.remove(header::CONNECTION) {
        for name in named.to_str().unwrap_or_default().split(',') {
            headers.remove(name.trim());
        }
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    // A client may say that it takes trailers, and nothing else.
    if (headers.get(header::TE)).is_some_and(|te| !of_request || te != "trailers") {
        headers.remove(header::TE);
    }
}

/// Says how long the body is, where that is known and nobody has said so.
pub(super) fn say_length(headers: &mut HeaderMap, length: u64) {
    if let header::Entry::Vacant(missing) = headers.entry(header::CONTENT_LENGTH) {
        missing.insert(HeaderValue::from(length));
    }
}

/// What `content-length` says; h2 sees to it that there is one, and that the body keeps to it.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stripped(fields: &[(&'static str, &'static str)], of_request: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        strip_connection_fields(&mut headers, of_request);
        let mut left: Vec<String> = headers.keys().map(ToString::to_string).collect();
        left.sort();
        left
    }

    #[test]
    fn a_connections_fields_are_taken_out_with_those_that_it_names() {
        let fields = [
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("x-other", "1"),
            ("keep-alive", "3"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
        ];
        assert_eq!(stripped(&fields, true), ["x-other"]);
    }

    #[test]
    fn a_request_may_ask_for_trailers_alone() {
        assert_eq!(stripped(&[("te", "trailers")], true), ["te"]);
        assert!(stripped(&[("te", "gzip")], true).is_empty());
        assert!(stripped(&[("te", "trailers")], false).is_empty());
    }

    #[test]
    fn a_length_is_said_once() {
        let mut headers = HeaderMap::new();
        say_length(&mut headers, 5);
        say_length(&mut headers, 7);
        assert_eq!(length(&headers), Some(5));
    }
}
