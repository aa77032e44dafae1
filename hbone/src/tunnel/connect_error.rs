//! Why there is no tunnel, whose fault that is, and whether trying again is safe.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::frames::frame_watch::Flood;
use crate::io::reset::Reset;
use crate::io::reset::reset_of;
use crate::tls::tls_failure::TlsFailure;

/// Why there is no tunnel. Shared, since several may have waited for the same connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no certificate of our own yet")]
    NoCertificate,
    #[error("connecting to {hop}: {error}")]
    Tcp {
        hop: SocketAddr,
        error: Arc<io::Error>,
    },
    #[error("TLS with {hop}: {error}")]
    Tls {
        hop: SocketAddr,
        error: Arc<TlsFailure>,
    },
    /// HTTP/2 failed, or the server reset the CONNECT.
    #[error("HTTP/2 with {hop}: {error}")]
    Handshake {
        hop: SocketAddr,
        error: Arc<io::Error>,
    },
    /// The server sent so much that does no work that the connection was ended, before its answer to the CONNECT.
    #[error("{hop} was cut off: {flood}")]
    Flooded { hop: SocketAddr, flood: Flood },
    #[error("{hop} answered {status} to CONNECT")]
    Rejected { hop: SocketAddr, status: StatusCode },
    #[error("{hop}: no {phase} within {timeout:?}")]
    Timeout {
        hop: SocketAddr,
        phase: &'static str,
        timeout: Duration,
    },
    /// The server turned out to allow fewer streams than were asked for; none of this one was sent.
    #[error("{hop} allows no more streams on this connection")]
    Full { hop: SocketAddr },
    /// Too many callers wait already.
    #[error("too many wait for a connection to {hop}")]
    Overflow { hop: SocketAddr },
    /// The caller's fault.
    #[error("{0:?} can't be the authority of a CONNECT")]
    Authority(Box<str>),
}

impl ConnectError {
    /// Whether another attempt, here or at another host, may help. It's always safe: nothing of the tunnelled stream has
    /// left yet. It's useless where the server has answered no, or the fault is ours.
    pub fn retry_safe(&self) -> bool {
        match self {
            ConnectError::NoCertificate | ConnectError::Authority(_) => false,
            ConnectError::Rejected { status, .. } => status.is_server_error(),
            _ => true,
        }
    }

    /// Whether the server refused the stream without looking at it (REFUSED_STREAM), or would have.
    pub(crate) fn refused(&self) -> bool {
        match self {
            ConnectError::Handshake { error, .. } => {
                reset_of(error.as_ref()) == Some(Reset::Refused)
            }
            ConnectError::Full { .. } => true,
            _ => false,
        }
    }

    /// A short name for metric labels and access logs; the set is fixed.
    pub fn label(&self) -> &'static str {
        match self {
            ConnectError::NoCertificate => "no_certificate",
            ConnectError::Tcp { .. } => "tcp",
            ConnectError::Tls { error, .. } => error.label(),
            ConnectError::Handshake { .. } => "http2",
            ConnectError::Flooded { .. } => "flooded",
            ConnectError::Rejected { .. } => "rejected",
            ConnectError::Timeout { .. } => "timeout",
            ConnectError::Full { .. } | ConnectError::Overflow { .. } => "overflow",
            ConnectError::Authority(_) => "authority",
        }
    }
}
