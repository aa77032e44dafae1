//! A certificate signing request for a workload: ECDSA P-256, the SPIFFE ID as its one URI SAN.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};

use crate::identity::Identity;

/// A new key and the request that goes with it.
pub struct CertificateRequest {
    csr_pem: String,
    key_pem: String,
}

/// Making the key or the request failed; nothing about the identity can cause it.
#[derive(Debug, thiserror::Error)]
#[error("certificate request: {0}")]
pub struct CertificateRequestError(#[from] rcgen::Error);

impl CertificateRequest {
    /// A request for `identity`. istiod issues for whom the token speaks, whatever the request says.
    pub fn new(identity: &Identity) -> Result<CertificateRequest, CertificateRequestError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
        let csr = params.serialize_request(&key)?;
        Ok(CertificateRequest {
            csr_pem: csr.pem()?,
            key_pem: key.serialize_pem(),
        })
    }

    pub fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    /// The private key. Never to be logged.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_pem_and_every_one_has_its_own_key() {
        let identity = Identity::istio("cluster.local", "default", "waypoint").unwrap();
        let one = CertificateRequest::new(&identity).unwrap();
        let two = CertificateRequest::new(&identity).unwrap();
        assert!(
            one.csr_pem()
                .starts_with("-----BEGIN CERTIFICATE REQUEST-----")
        );
        assert_ne!(one.key_pem(), two.key_pem());
    }
}
