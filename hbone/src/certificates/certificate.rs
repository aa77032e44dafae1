//! A workload's own certificate chain, its key and the roots that it trusts.
//!
//! Whatever can be wrong with them is found here, when they are read: the key must fit the chain, and the leaf must
//! carry exactly one URI SAN, a SPIFFE ID. After that, building a TLS configuration cannot fail. Whether the leaf is
//! valid *now* isn't checked here: it's the caller that knows the time, and an expired certificate that is
//! still in use must not stop a waypoint from reading its successor.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ConfigBuilder, RootCertStore, WantsVerifier};

use crate::certificates::certificate_fields::CertificateFields;
use crate::certificates::x509::details;
use crate::certificates::x509::{CertificateDetails, Leaf, LeafError};
use crate::identity::Identity;

/// File names as istio-agent and the other tools of the mesh use them.
pub const CHAIN_FILE: &str = "cert-chain.pem";
pub const KEY_FILE: &str = "key.pem";
pub const ROOTS_FILE: &str = "root-cert.pem";

/// A mesh has few roots; a file with more than this isn't a trust bundle.
pub(crate) const MAX_ROOTS: usize = 1024;
/// A leaf and its intermediates.
pub(crate) const MAX_CHAIN: usize = 16;

/// Certificate chain, private key and trusted roots of one workload.
pub struct WorkloadCertificate {
    identity: Identity,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    chain_pem: String,
    roots_pem: String,
    root_certificates: Vec<CertificateDer<'static>>,
    /// Of the leaf, once somebody has asked.
    fields: OnceLock<Option<CertificateFields>>,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) server_builder: ConfigBuilder<rustls::ServerConfig, WantsVerifier>,
    pub(crate) client_builder: ConfigBuilder<rustls::ClientConfig, WantsVerifier>,
    pub(crate) provider: Arc<CryptoProvider>,
}

/// Why certificate, key or roots can't be used. The fault lies with whoever issued or wrote them; a retry helps only
/// when they change (files that are being replaced may not fit each other for a moment).
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{part}: not PEM: {reason}")]
    Pem { part: &'static str, reason: String },
    #[error("{part}: no {what} in it")]
    Missing {
        part: &'static str,
        what: &'static str,
    },
    #[error("{part}: more than {limit} certificates")]
    TooMany { part: &'static str, limit: usize },
    #[error("private key: {0}")]
    Key(rustls::Error),
    #[error("the private key doesn't belong to the certificate")]
    KeyMismatch,
    #[error("root certificate {index}: {reason}")]
    Root { index: usize, reason: String },
    #[error("certificate: {0}")]
    Peer(#[from] LeafError),
    #[error("TLS: {0}")]
    Tls(String),
}

impl WorkloadCertificate {
    /// Reads PEM texts: the chain (leaf first), its private key (PKCS#8, PKCS#1 or SEC1) and the trusted roots.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        roots: &[u8],
    ) -> Result<WorkloadCertificate, CertificateError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (chain_pem, roots_pem) = (certificate_blocks(chain), certificate_blocks(roots));
        let chain = certificates(chain, "certificate chain", MAX_CHAIN)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => CertificateError::Missing {
                part: "private key",
                what: "key",
            },
            error => CertificateError::Pem {
                part: "private key",
                reason: error.to_string(),
            },
        })?;
        let leaf = chain.first().ok_or(CertificateError::Missing {
            part: "certificate chain",
            what: "certificate",
        })?;
        let leaf = Leaf::parse(leaf)?;
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertificateError::KeyMismatch,
            error => CertificateError::Key(error),
        })?;
        let root_certificates = certificates(roots, "root certificates", MAX_ROOTS)?;
        let roots = Arc::new(parse_roots(&root_certificates)?);
        let tls = |error: &dyn fmt::Display| CertificateError::Tls(error.to_string());
        let versions = &[&rustls::version::TLS13];
        Ok(WorkloadCertificate {
            identity: leaf.identity,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            serial: leaf.serial,
            chain_pem,
            roots_pem,
            root_certificates,
            fields: OnceLock::new(),
            key: Arc::new(key),
            roots,
            server_builder: rustls::ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(versions)
                .map_err(|error| tls(&error))?,
            client_builder: rustls::ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(versions)
                .map_err(|error| tls(&error))?,
            provider,
        })
    }

    /// Reads `cert-chain.pem`, `key.pem` and `root-cert.pem` in a folder.
    pub fn load(dir: &Path) -> Result<WorkloadCertificate, CertificateError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|source| CertificateError::Read { path, source })
        };
        WorkloadCertificate::from_pem(&read(CHAIN_FILE)?, &read(KEY_FILE)?, &read(ROOTS_FILE)?)
    }

    /// The SPIFFE ID in the leaf's URI SAN.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether the leaf is valid at this time.
    pub fn valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// The leaf's serial number in lower-case hexadecimal, to tell certificates apart in logs and in the admin API.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The chain in PEM, leaf first.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The trusted roots in PEM.
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// What the chain's certificates say of themselves, leaf first.
    pub fn chain(&self) -> Vec<CertificateDetails> {
        details(&self.key.cert)
    }

    pub(crate) fn root_certificates(&self) -> &[CertificateDer<'static>] {
        &self.root_certificates
    }

    /// What access logs print of the leaf.
    pub fn fields(&self) -> Option<&CertificateFields> {
        let read = || self.key.cert.first().and_then(CertificateFields::read);
        self.fields.get_or_init(read).as_ref()
    }

    /// What the trusted roots say of themselves.
    pub fn roots(&self) -> Vec<CertificateDetails> {
        details(&self.root_certificates)
    }
}

impl fmt::Debug for WorkloadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The certificates of a PEM text and nothing else: a key may stand beside them.
fn certificate_blocks(pem: &[u8]) -> String {
    let mut inside = false;
    let mut blocks = String::new();
    for line in String::from_utf8_lossy(pem).lines().map(str::trim) {
        inside |= line == "-----BEGIN CERTIFICATE-----";
        if inside {
            blocks.push_str(line);
            blocks.push('\n');
        }
        inside &= line != "-----END CERTIFICATE-----";
    }
    blocks
}

fn certificates(
    pem: &[u8],
    part: &'static str,
    limit: usize,
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| CertificateError::Pem {
            part,
            reason: error.to_string(),
        })?;
        if certificates.len() == limit {
            return Err(CertificateError::TooMany { part, limit });
        }
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(CertificateError::Missing {
            part,
            what: "certificate",
        });
    }
    Ok(certificates)
}

fn parse_roots(
    certificates: &[CertificateDer<'static>],
) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        roots
            .add(certificate.clone())
            .map_err(|error| CertificateError::Root {
                index,
                reason: error.to_string(),
            })?;
    }
    Ok(roots)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn self_signed(names: Vec<SanType>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn read(names: Vec<SanType>) -> Result<WorkloadCertificate, CertificateError> {
        let (chain, key) = self_signed(names);
        WorkloadCertificate::from_pem(chain.as_bytes(), key.as_bytes(), chain.as_bytes())
    }

    #[test]
    fn one_uri_san_is_the_identity() {
        let names = vec![
            uri("spiffe://td/ns/a/sa/b"),
            SanType::DnsName("istiod.svc".try_into().unwrap()),
        ];
        let certificate = read(names).unwrap();
        assert_eq!(certificate.identity().as_str(), "spiffe://td/ns/a/sa/b");
        assert!(certificate.valid_at(SystemTime::now()));
        assert!(!certificate.valid_at(UNIX_EPOCH));
        assert!(!certificate.serial().is_empty());
    }

    #[test]
    fn a_certificate_can_be_looked_into_and_its_key_cannot() {
        let (chain, key) = self_signed(vec![uri("spiffe://td/a")]);
        let both = format!("# a comment\n{key}{chain}");
        let certificate =
            WorkloadCertificate::from_pem(both.as_bytes(), key.as_bytes(), chain.as_bytes())
                .unwrap();
        let unix = chain.replace("\r\n", "\n");
        assert_eq!(certificate.chain_pem(), unix);
        assert_eq!(certificate.roots_pem(), unix);
        let [leaf] = &*certificate.chain() else {
            panic!("{:?}", certificate.chain());
        };
        assert_eq!(leaf.serial, certificate.serial());
        assert_eq!(leaf.not_after, certificate.not_after());
        assert_eq!(leaf.uris, ["spiffe://td/a"]);
        assert_eq!(certificate.roots(), certificate.chain());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (chain, _) = self_signed(vec![uri("spiffe://td/a")]);
        let (_, key) = self_signed(vec![uri("spiffe://td/a")]);
        let error =
            WorkloadCertificate::from_pem(chain.as_bytes(), key.as_bytes(), chain.as_bytes());
        assert!(
            matches!(error, Err(CertificateError::KeyMismatch)),
            "{error:?}"
        );
    }

    #[test]
    fn missing_and_broken_parts_are_named() {
        let (chain, key) = self_signed(vec![uri("spiffe://td/a")]);
        let (chain, key) = (chain.as_bytes(), key.as_bytes());
        let text = |chain: &[u8], key: &[u8], roots: &[u8]| {
            WorkloadCertificate::from_pem(chain, key, roots)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            text(b"", key, chain),
            "certificate chain: no certificate in it"
        );
        assert_eq!(text(chain, b"", chain), "private key: no key in it");
        assert_eq!(
            text(chain, key, b"junk"),
            "root certificates: no certificate in it"
        );
        assert!(
            text(
                b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
                key,
                chain
            )
            .contains("PEM")
        );
        let not_a_root = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(text(chain, key, not_a_root).starts_with("root certificate 0"));
        let missing = WorkloadCertificate::load(Path::new("/nonexistent"))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("cert-chain.pem"), "{missing}");
    }
}
