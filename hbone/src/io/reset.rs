//! What an HTTP/2 error in a chain of causes says: hyper's errors hide h2's.

use std::error::Error;
use std::io;

/// Why a stream or connection was reset, as far as it decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// REFUSED_STREAM, or GOAWAY: the peer did not look at the request; a retry is safe.
    Refused,
    /// PROTOCOL_ERROR and its like: what was received is not HTTP/2.
    Protocol,
    /// Any other reason.
    Other,
}

/// The HTTP/2 reset among `error` and its causes, if there is one.
pub fn reset_of(error: &(dyn Error + 'static)) -> Option<Reset> {
    let error = h2_error_of(error)?;
    // It says which stream was the last that the peer looked at, and fails those after it (RFC 9113 §6.8).
    if error.is_go_away() && error.is_remote() {
        return Some(Reset::Refused);
    }
    error.reason().map(|reason| match reason {
        h2::Reason::REFUSED_STREAM => Reset::Refused,
        h2::Reason::PROTOCOL_ERROR | h2::Reason::COMPRESSION_ERROR => Reset::Protocol,
        _ => Reset::Other,
    })
}

/// What h2 said, among `error` and its causes.
pub(crate) fn h2_error_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a h2::Error> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return Some(h2);
        }
        // An `io::Error` shows the cause of what it wraps as its own cause, and not what it wraps.
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        current = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// What happened to a stream, as an I/O error: a reset, a GOAWAY or a protocol error is `ConnectionReset` with the HTTP/2 error as its
/// source; a failed connection keeps the kind of its failure.
pub(crate) fn io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_reset_behind_its_wrappers() {
        let h2 = h2::Error::from(h2::Reason::REFUSED_STREAM);
        let wrapped = std::io::Error::other(h2);
        assert_eq!(reset_of(&wrapped), Some(Reset::Refused));
        assert_eq!(reset_of(&std::io::Error::other("x")), None);
    }

    #[test]
    fn resets_are_connection_resets() {
        let error = io_error(h2::Error::from(h2::Reason::CANCEL));
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
