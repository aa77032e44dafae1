//! What TLS knows of a connection's two ends, for logs that ask for it.
//!
//! Nothing is copied or parsed before somebody asks; then the connection is looked into, under the lock that its own task takes
//! for each turn, and what was found is kept. So whoever wants to write something down after the connection's end has
//! to ask while it is open.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, NamedGroup, ProtocolVersion};

use crate::certificates::certificate::WorkloadCertificate;
use crate::certificates::certificate_fields::CertificateFields;
use crate::certificates::certificate_fields::issuer_of;

/// The TLS of one connection.
pub struct TlsInfo {
    local: Local,
    look: Look,
    session: OnceLock<TlsSession>,
}

type Look = Box<dyn Fn() -> Option<TlsSession> + Send + Sync>;

/// What we showed to the peer.
enum Local {
    OfMesh(Arc<WorkloadCertificate>),
    /// `None`: nothing.
    Other(Option<CertificateFields>),
}

/// What was agreed on, and what the peer showed.
#[derive(Debug)]
pub struct TlsSession {
    /// As `TLSv1.3`.
    pub version: &'static str,
    /// As OpenSSL names it, as is the group.
    pub cipher: &'static str,
    pub group: &'static str,
    /// The peer's certificate, and those that it sent with it.
    pub chain: Vec<CertificateFields>,
    /// What the peer's certificate is signed by: one that it sent, or a root of ours.
    pub issuer: Option<CertificateFields>,
}

impl TlsInfo {
    /// `look` looks into the connection with what it is given, as long as there is one.
    pub(crate) fn new(
        local: Arc<WorkloadCertificate>,
        look: impl Fn(&WorkloadCertificate) -> Option<TlsSession> + Send + Sync + 'static,
    ) -> TlsInfo {
        let of_look = local.clone();
        TlsInfo {
            local: Local::OfMesh(local),
            look: Box::new(move || look(&of_look)),
            session: OnceLock::new(),
        }
    }

    /// Of a connection to a server that isn't of the mesh.
    pub(crate) fn originated(
        local: Option<CertificateFields>,
        look: impl Fn() -> TlsSession + Send + Sync + 'static,
    ) -> TlsInfo {
        TlsInfo {
            local: Local::Other(local),
            look: Box::new(move || Some(look())),
            session: OnceLock::new(),
        }
    }

    /// `None`: the connection has ended, and nobody had asked before.
    pub fn session(&self) -> Option<&TlsSession> {
        if self.session.get().is_none()
            && let Some(found) = (self.look)()
        {
            let _ = self.session.set(found);
        }
        self.session.get()
    }

    /// Our own certificate, as the peer saw it.
    pub fn local(&self) -> Option<&CertificateFields> {
        match &self.local {
            Local::OfMesh(certificate) => certificate.fields(),
            Local::Other(fields) => fields.as_ref(),
        }
    }

    /// `TLSv1.3`, or an older one outside of the mesh.
    pub fn version(&self) -> Option<&'static str> {
        match &self.local {
            // HBONE speaks no other.
            Local::OfMesh(_) => Some("TLSv1.3"),
            Local::Other(_) => self.session().map(|session| session.version),
        }
    }
}

impl fmt::Debug for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsInfo")
            .field("session", &self.session.get())
            .finish_non_exhaustive()
    }
}

/// What was agreed on, to be kept until somebody asks.
#[derive(Clone, Copy)]
pub(crate) struct Agreed {
    version: &'static str,
    cipher: &'static str,
    group: &'static str,
}

impl TlsSession {
    /// `local` is what was trusted when the connection was made.
    pub(crate) fn of(tls: &CommonState, local: &WorkloadCertificate) -> TlsSession {
        let chain = tls.peer_certificates().unwrap_or_default();
        Agreed::of(tls).with_chain(chain, local.root_certificates())
    }
}

impl Agreed {
    pub(crate) fn of(tls: &CommonState) -> Agreed {
        let suite = tls.negotiated_cipher_suite();
        let suite = suite.and_then(|suite| suite.suite().as_str());
        let group = tls.negotiated_key_exchange_group();
        Agreed {
            version: match tls.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "",
            },
            cipher: suite.map_or("", cipher),
            group: group.map_or("", |group| curve(group.name())),
        }
    }

    pub(crate) fn with_chain(
        self,
        chain: &[CertificateDer<'_>],
        roots: &[CertificateDer<'_>],
    ) -> TlsSession {
        let issuer = chain
            .split_first()
            .and_then(|(leaf, sent)| issuer_of(leaf, sent.iter().chain(roots)));
        TlsSession {
            version: self.version,
            cipher: self.cipher,
            group: self.group,
            issuer: issuer.and_then(CertificateFields::read),
            chain: chain.iter().filter_map(CertificateFields::read).collect(),
        }
    }
}

/// TLS 1.3's suites have names of their own in rustls.
fn cipher(suite: &'static str) -> &'static str {
    match suite {
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        // Those of TLS 1.2, as OpenSSL names them.
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-RSA-CHACHA20-POLY1305",
        other => other,
    }
}

fn curve(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::secp256r1 => "P-256",
        NamedGroup::secp384r1 => "P-384",
        NamedGroup::secp521r1 => "P-521",
        other => other.as_str().unwrap_or(""),
    }
}
