//! Why a TLS handshake failed, in terms of the mesh: fit for logs, metric labels and the choice whether to retry.

use std::io;

use crate::certificates::trust::PeerError;
use crate::certificates::trust::peer_error;

/// Why a TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsFailure {
    #[error("the peer showed no certificate")]
    NoPeerCertificate,
    #[error("the peer's certificate has expired or isn't valid yet: {0}")]
    PeerCertificateTime(String),
    #[error("the peer's certificate isn't signed by a root that we trust")]
    UnknownIssuer,
    #[error("the peer's certificate has been revoked")]
    Revoked,
    #[error("the peer's certificate is refused: {0}")]
    PeerCertificate(String),
    #[error("{0}")]
    Peer(#[from] PeerError),
    #[error("the peer doesn't speak HTTP/2 here (ALPN)")]
    Alpn,
    #[error("the peer doesn't speak TLS 1.3: {0}")]
    Incompatible(String),
    #[error("what the peer sent isn't TLS")]
    NotTls,
    #[error("the peer refused us: {0}")]
    Refused(String),
    #[error("{0}")]
    Protocol(String),
    #[error("connection lost: {0}")]
    Io(#[source] io::Error),
}

impl TlsFailure {
    pub(crate) fn from_io(error: io::Error) -> TlsFailure {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(tls) => TlsFailure::from_rustls(tls),
            None => TlsFailure::Io(error),
        }
    }

    pub(crate) fn from_rustls(error: &rustls::Error) -> TlsFailure {
        use rustls::{CertificateError as Certificate, Error};
        if let Some(peer) = peer_error(error) {
            return TlsFailure::Peer(peer.clone());
        }
        match error {
            Error::NoCertificatesPresented => TlsFailure::NoPeerCertificate,
            Error::InvalidCertificate(reason) => match reason {
                Certificate::Expired
                | Certificate::ExpiredContext { .. }
                | Certificate::NotValidYet
                | Certificate::NotValidYetContext { .. } => {
                    TlsFailure::PeerCertificateTime(reason.to_string())
                }
                Certificate::UnknownIssuer => TlsFailure::UnknownIssuer,
                Certificate::Revoked => TlsFailure::Revoked,
                other => TlsFailure::PeerCertificate(other.to_string()),
            },
            Error::NoApplicationProtocol
            | Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol) => {
                TlsFailure::Alpn
            }
            Error::PeerIncompatible(reason) => TlsFailure::Incompatible(format!("{reason:?}")),
            Error::InvalidMessage(_) => TlsFailure::NotTls,
            Error::AlertReceived(alert) => TlsFailure::Refused(format!("{alert:?}")),
            other => TlsFailure::Protocol(other.to_string()),
        }
    }

    /// A short name for metric labels; the set is fixed.
    pub fn label(&self) -> &'static str {
        match self {
            TlsFailure::NoPeerCertificate => "no_peer_certificate",
            TlsFailure::PeerCertificateTime(_) => "peer_certificate_time",
            TlsFailure::UnknownIssuer => "unknown_issuer",
            TlsFailure::Revoked => "revoked",
            TlsFailure::PeerCertificate(_) => "peer_certificate",
            TlsFailure::Peer(PeerError::ForeignTrustDomain(_)) => "foreign_trust_domain",
            TlsFailure::Peer(PeerError::Leaf(_)) => "peer_identity",
            TlsFailure::Alpn => "alpn",
            TlsFailure::Incompatible(_) => "incompatible",
            TlsFailure::NotTls => "not_tls",
            TlsFailure::Refused(_) => "refused_by_peer",
            TlsFailure::Protocol(_) => "protocol",
            TlsFailure::Io(_) => "connection_lost",
        }
    }
}
