//! Why TLS to a server failed, in the words that Envoy's logs have for it, which are BoringSSL's.
//!
//! Whoever looks for a failure in logs looks for these. What BoringSSL has no word for is told in rustls' own.

use std::error::Error as _;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, OtherError};

use crate::tls::server_verifier::{CHAIN, Verdict};

/// What of an error is of TLS, in Envoy's words; `None`: nothing.
pub fn failure_reason(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<Error>() {
            return Some(words(tls));
        }
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<Error>()) {
            return Some(words(tls));
        }
        cause = error.source();
    }
    None
}

/// Why a handshake failed.
pub fn handshake_reason(error: &io::Error) -> String {
    failure_reason(error).unwrap_or_else(|| match error.source() {
        _ if error.kind() == io::ErrorKind::UnexpectedEof => {
            "connection closed during the TLS handshake".to_owned()
        }
        _ => format!("TLS handshake: {error}"),
    })
}

fn words(error: &Error) -> String {
    let openssl = |code: u32, text: &str| {
        format!("TLS_error:|{code}:SSL routines:OPENSSL_internal:{text}:TLS_error_end")
    };
    match error {
        Error::InvalidCertificate(reason) => {
            let failed = format!(
                "CERTIFICATE_VERIFY_FAILED:verify cert failed: {}",
                certificate(reason)
            );
            openssl(268_435_581, &failed)
        }
        Error::InvalidMessage(_) => openssl(268_435_703, "WRONG_VERSION_NUMBER"),
        Error::AlertReceived(alert) => {
            // BoringSSL's reasons begin at 1000 for alerts.
            let code = 268_435_456 + 1000 + u32::from(u8::from(*alert));
            openssl(code, alert_name(*alert))
        }
        Error::NoCertificatesPresented => openssl(268_435_655, "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        Error::PeerIncompatible(reason) => format!("TLS_error:{reason:?}:TLS_error_end"),
        other => format!("TLS_error:{other}:TLS_error_end"),
    }
}

fn certificate(reason: &CertificateError) -> String {
    let verdict = match reason {
        CertificateError::Other(OtherError(inner)) if inner.is::<Verdict>() => {
            return inner.to_string();
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate is not yet valid"
        }
        CertificateError::UnknownIssuer => "unable to get local issuer certificate",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "unsuitable certificate purpose"
        }
        CertificateError::Revoked => "certificate revoked",
        other => return other.to_string(),
    };
    format!("{CHAIN}{verdict}")
}

fn alert_name(alert: AlertDescription) -> &'static str {
    use AlertDescription as Alert;
    match alert {
        Alert::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        Alert::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        Alert::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        Alert::NoCertificate => "SSLV3_ALERT_NO_CERTIFICATE",
        Alert::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        Alert::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        Alert::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        Alert::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        Alert::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        Alert::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        Alert::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        Alert::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        Alert::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        Alert::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        Alert::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        Alert::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        Alert::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        Alert::UnrecognisedName => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        Alert::CertificateRequired => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        Alert::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => "TLSV1_ALERT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_in_boringssls_words() {
        let io = io::Error::new(
            io::ErrorKind::InvalidData,
            Error::InvalidCertificate(CertificateError::Expired),
        );
        assert_eq!(
            handshake_reason(&io),
            "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: \
             X509_verify_cert: certificate verification error at depth 0: certificate has expired:TLS_error_end"
        );
        let alert = Error::AlertReceived(AlertDescription::CertificateRequired);
        assert!(
            words(&alert).contains(
                "|268436572:SSL routines:OPENSSL_internal:TLSV1_ALERT_CERTIFICATE_REQUIRED"
            )
        );
        assert!(failure_reason(&io::Error::other("no TLS")).is_none());
    }
}
