//! What an X.509 certificate says: its identity, its validity, its serial number.
//!
//! A leaf of the mesh carries exactly one URI SAN, a SPIFFE ID. Whether anybody vouches for it is the matter of
//! [`trust`](crate::certificates::trust).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::identity::{Identity, IdentityError};

/// What a certificate says of itself, for those who look into a running waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateDetails {
    /// In lower-case hexadecimal.
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Its URI SANs.
    pub uris: Vec<String>,
}

/// Why a leaf certificate isn't one of a mesh workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    #[error("not an X.509 certificate")]
    Encoding,
    #[error("no URI SAN")]
    NoUri,
    #[error("{0} URI SANs; a workload has exactly one")]
    ManyUris(usize),
    #[error("URI SAN {uri:?} is no SPIFFE ID: {error}")]
    Identity { uri: String, error: IdentityError },
}

/// What we read from a leaf, our own or a peer's.
pub(crate) struct Leaf {
    pub(crate) identity: Identity,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) serial: String,
}

impl Leaf {
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Leaf, LeafError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| LeafError::Encoding)?;
        if !rest.is_empty() {
            return Err(LeafError::Encoding);
        }
        let validity = certificate.validity();
        Ok(Leaf {
            identity: uri_identity(&certificate)?,
            not_before: system_time(validity.not_before),
            not_after: system_time(validity.not_after),
            serial: serial(&certificate),
        })
    }

    /// Only the identity, for a peer's certificate whose validity others check.
    pub(crate) fn identity(der: &CertificateDer<'_>) -> Result<Identity, LeafError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| LeafError::Encoding)?;
        if !rest.is_empty() {
            return Err(LeafError::Encoding);
        }
        uri_identity(&certificate)
    }
}

fn uris<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
        .flatten()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
}

fn serial(certificate: &X509Certificate<'_>) -> String {
    let bytes = certificate.raw_serial().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Those that can't be parsed are left out: webpki took them, so there are none.
pub(crate) fn details(certificates: &[CertificateDer<'_>]) -> Vec<CertificateDetails> {
    let parsed = certificates
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok());
    parsed
        .map(|(_, certificate)| CertificateDetails {
            serial: serial(&certificate),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
            uris: uris(&certificate).map(str::to_owned).collect(),
        })
        .collect()
}

fn uri_identity(certificate: &X509Certificate<'_>) -> Result<Identity, LeafError> {
    let mut uris = uris(certificate);
    let uri = uris.next().ok_or(LeafError::NoUri)?;
    let more = uris.count();
    if more > 0 {
        return Err(LeafError::ManyUris(more + 1));
    }
    uri.parse().map_err(|error| LeafError::Identity {
        uri: uri.chars().take(256).collect(),
        error,
    })
}

/// Certificates may claim any year; what lies before 1970 is clamped.
pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn read(names: Vec<SanType>) -> Result<Leaf, LeafError> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Leaf::parse(certificate.der())
    }

    #[test]
    fn one_uri_san_is_the_identity() {
        let names = vec![
            uri("spiffe://td/ns/a/sa/b"),
            SanType::DnsName("istiod.svc".try_into().unwrap()),
        ];
        let leaf = read(names).unwrap();
        assert_eq!(leaf.identity.as_str(), "spiffe://td/ns/a/sa/b");
        assert!(!leaf.serial.is_empty());
    }

    #[test]
    fn other_san_shapes_are_refused() {
        let leaf_error = |names| read(names).err().unwrap();
        assert_eq!(leaf_error(vec![]), LeafError::NoUri);
        assert_eq!(
            leaf_error(vec![SanType::DnsName("a.b".try_into().unwrap())]),
            LeafError::NoUri
        );
        assert_eq!(
            leaf_error(vec![
                uri("spiffe://td/ns/a/sa/b"),
                uri("spiffe://td/ns/a/sa/c")
            ]),
            LeafError::ManyUris(2)
        );
        assert!(matches!(
            leaf_error(vec![uri("https://a/b")]),
            LeafError::Identity { .. }
        ));
    }

    #[test]
    fn what_is_no_certificate_has_no_identity() {
        let broken = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
        assert_eq!(Leaf::parse(&broken).err(), Some(LeafError::Encoding));
        assert_eq!(Leaf::identity(&broken), Err(LeafError::Encoding));
        assert!(details(&[broken]).is_empty());
    }
}
