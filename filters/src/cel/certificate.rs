//! What expressions may ask of a connection's certificates, by Envoy's names.

use std::borrow::Cow;

use waypoint_hbone::certificates::certificate_fields::{CertificateFields, NameKind};
use waypoint_hbone::tls::tls_info::TlsInfo;

use super::value::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certificate {
    Version,
    SubjectLocal,
    SubjectPeer,
    UriLocal,
    UriPeer,
    DnsLocal,
    DnsPeer,
    DigestPeer,
    PemPeer,
}

impl Certificate {
    pub(super) fn named(name: &str) -> Option<Certificate> {
        Some(match name {
            "tls_version" => Certificate::Version,
            "subject_local_certificate" => Certificate::SubjectLocal,
            "subject_peer_certificate" => Certificate::SubjectPeer,
            "uri_san_local_certificate" => Certificate::UriLocal,
            "uri_san_peer_certificate" => Certificate::UriPeer,
            "dns_san_local_certificate" => Certificate::DnsLocal,
            "dns_san_peer_certificate" => Certificate::DnsPeer,
            "sha256_peer_certificate_digest" => Certificate::DigestPeer,
            "peer_certificate" => Certificate::PemPeer,
            _ => return None,
        })
    }

    /// Whether the connection has to be looked into while it is open.
    pub(super) fn is_of_peer(self) -> bool {
        matches!(
            self,
            Certificate::SubjectPeer
                | Certificate::UriPeer
                | Certificate::DnsPeer
                | Certificate::DigestPeer
                | Certificate::PemPeer
        )
    }

    pub(super) fn of(self, tls: &TlsInfo) -> Option<Value<'_>> {
        let peer = || tls.session()?.chain.first();
        let first = |of: Option<&CertificateFields>, kind| {
            // Borrowed from what is borrowed itself.
            let name = of?.names(kind).next()?.to_owned();
            Some(Value::String(Cow::Owned(name)))
        };
        match self {
            // HBONE speaks no other.
            Certificate::Version => Some(Value::text("TLSv1.3")),
            Certificate::SubjectLocal => tls.local().map(|own| Value::text(&own.subject)),
            Certificate::SubjectPeer => peer().map(|peer| Value::text(&peer.subject)),
            Certificate::UriLocal => first(tls.local(), NameKind::Uri),
            Certificate::UriPeer => first(peer(), NameKind::Uri),
            Certificate::DnsLocal => first(tls.local(), NameKind::Dns),
            Certificate::DnsPeer => first(peer(), NameKind::Dns),
            Certificate::DigestPeer => peer().map(|peer| Value::text(&peer.sha256)),
            Certificate::PemPeer => {
                let pem = peer()?.url_encoded_pem();
                Some(Value::String(Cow::Owned(pem)))
            }
        }
    }
}
