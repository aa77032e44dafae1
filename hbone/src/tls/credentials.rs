//! What a client of servers outside of the mesh has: a key of its own, and the roots that it trusts.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::certificates::certificate::{MAX_CHAIN, MAX_ROOTS, WorkloadCertificate};
use crate::certificates::revocation::Revocations;

/// Why settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OriginationError {
    #[error("{part}: {reason}")]
    Pem { part: &'static str, reason: String },
    #[error("the private key doesn't belong to the certificate")]
    KeyMismatch,
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A chain and its key, to show to servers that ask for one.
#[derive(Clone)]
pub struct ClientKey(pub(crate) Arc<CertifiedKey>);

/// Certificates that servers' chains may lead to.
#[derive(Clone)]
pub struct ServerRoots {
    pub(crate) store: Arc<RootCertStore>,
    pub(crate) certificates: Arc<[CertificateDer<'static>]>,
    /// `None`: nothing is looked up. With lists, as with Envoy, every issuer of a chain must have one that isn't overdue.
    pub(crate) revocations: Option<Revocations>,
}

impl ClientKey {
    /// Reads PEM texts: the chain (leaf first) and its private key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<ClientKey, OriginationError> {
        let chain = certificates(chain, "certificate chain", MAX_CHAIN)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| OriginationError::Pem {
            part: "private key",
            reason: pem_reason(&error).to_owned(),
        })?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        match CertifiedKey::from_der(chain, key, &provider) {
            Ok(key) => Ok(ClientKey(Arc::new(key))),
            Err(rustls::Error::InconsistentKeys(_)) => Err(OriginationError::KeyMismatch),
            Err(error) => Err(error.into()),
        }
    }

    /// The workload's own.
    pub fn of_workload(certificate: &WorkloadCertificate) -> ClientKey {
        ClientKey(certificate.key.clone())
    }
}

impl ServerRoots {
    /// Reads a PEM text; a certificate in it that can't be a root doesn't take the others away.
    pub fn from_pem(pem: &[u8]) -> Result<ServerRoots, OriginationError> {
        let certificates = certificates(pem, "root certificates", MAX_ROOTS)?;
        let mut store = RootCertStore::empty();
        let (usable, _) = store.add_parsable_certificates(certificates.iter().cloned());
        if usable == 0 {
            return Err(OriginationError::Pem {
                part: "root certificates",
                reason: "hold no usable one".to_owned(),
            });
        }
        Ok(ServerRoots {
            store: Arc::new(store),
            certificates: certificates.into(),
            revocations: None,
        })
    }

    /// With lists of revoked certificates in PEM, which then decide, too.
    pub fn with_revocations(mut self, pem: &[u8]) -> Result<ServerRoots, OriginationError> {
        let lists = Revocations::from_pem(pem).map_err(|error| OriginationError::Pem {
            part: "CRL",
            reason: error.to_string(),
        })?;
        self.revocations = (lists.count() > 0).then_some(lists);
        Ok(self)
    }

    pub fn has_revocations(&self) -> bool {
        self.revocations.is_some()
    }

    /// Those of the mesh.
    pub fn of_workload(certificate: &WorkloadCertificate) -> ServerRoots {
        ServerRoots {
            store: certificate.roots.clone(),
            certificates: certificate.root_certificates().into(),
            revocations: None,
        }
    }
}

/// Never what stands in the text: it may be a key.
fn pem_reason(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "PEM without its END line",
        pem::Error::IllegalSectionStart { .. } => "PEM with a BEGIN line that is none",
        pem::Error::Base64Decode(_) => "PEM that isn't base64",
        pem::Error::NoItemsFound => "none in it",
        _ => "can't be read",
    }
}

fn certificates(
    pem: &[u8],
    part: &'static str,
    limit: usize,
) -> Result<Vec<CertificateDer<'static>>, OriginationError> {
    let refused = |reason: String| OriginationError::Pem { part, reason };
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        if certificates.len() == limit {
            return Err(refused(format!("more than {limit} certificates")));
        }
        certificates.push(certificate.map_err(|error| refused(pem_reason(&error).to_owned()))?);
    }
    if certificates.is_empty() {
        return Err(refused("no certificate in it".to_owned()));
    }
    Ok(certificates)
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_tuple("ClientKey").field(&self.0.cert).finish()
    }
}

impl fmt::Debug for ServerRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerRoots")
            .field(&self.certificates)
            .finish()
    }
}
