//! Lists of revoked certificates (CRLs).
//!
//! A certificate whose issuer has no list here is not revoked, and a list that is overdue counts as before: what it revokes
//! stays revoked, and nothing else is refused. Both are what the mesh's ztunnels do; two ends that judged
//! a peer differently would be worse than either. Whether a list is signed by the issuer that it names is found
//! when a chain of that issuer is verified.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::FromDer;

use crate::certificates::x509::system_time;

/// A mesh has a list per CA.
const MAX_LISTS: usize = 64;

/// The lists in use. Clones share them.
#[derive(Clone, Default)]
pub struct Revocations {
    lists: Arc<[List]>,
}

struct List {
    parsed: CertRevocationList<'static>,
    der: Vec<u8>,
    revoked: usize,
    next_update: Option<SystemTime>,
}

/// Why a file isn't one of CRLs. The fault lies with whoever wrote it.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    #[error("not PEM: {0}")]
    Pem(String),
    #[error("no CRL in it")]
    Missing,
    #[error("more than {MAX_LISTS} CRLs")]
    TooMany,
    #[error("CRL {index}: {reason}")]
    List { index: usize, reason: String },
}

impl Revocations {
    /// Reads CRLs in PEM. Nothing but space says that there are none.
    pub fn from_pem(pem: &[u8]) -> Result<Revocations, RevocationError> {
        if pem.trim_ascii().is_empty() {
            return Ok(Revocations::default());
        }
        let mut lists = Vec::new();
        for (index, der) in CertificateRevocationListDer::pem_slice_iter(pem).enumerate() {
            if index == MAX_LISTS {
                return Err(RevocationError::TooMany);
            }
            let der = der.map_err(|error| RevocationError::Pem(error.to_string()))?;
            let list =
                List::parse(&der).map_err(|reason| RevocationError::List { index, reason })?;
            lists.push(list);
        }
        if lists.is_empty() {
            return Err(RevocationError::Missing);
        }
        Ok(Revocations {
            lists: lists.into(),
        })
    }

    pub(crate) fn lists(&self) -> Vec<&CertRevocationList<'static>> {
        self.lists.iter().map(|list| &list.parsed).collect()
    }

    /// How many lists there are.
    pub fn count(&self) -> usize {
        self.lists.len()
    }

    /// How many certificates are revoked.
    pub fn revoked(&self) -> usize {
        self.lists.iter().map(|list| list.revoked).sum()
    }

    /// When the first of the lists is to be replaced.
    pub fn next_update(&self) -> Option<SystemTime> {
        self.lists.iter().filter_map(|list| list.next_update).min()
    }
}

impl List {
    fn parse(der: &[u8]) -> Result<List, String> {
        let owned = OwnedCertRevocationList::from_der(der).map_err(|error| error.to_string())?;
        let (_, read) = x509_parser::revocation_list::CertificateRevocationList::from_der(der)
            .map_err(|error| error.to_string())?;
        Ok(List {
            revoked: read.iter_revoked_certificates().count(),
            next_update: read.next_update().map(system_time),
            parsed: owned.into(),
            der: der.to_vec(),
        })
    }
}

impl PartialEq for Revocations {
    fn eq(&self, other: &Revocations) -> bool {
        let same = |(one, other): (&List, &List)| one.der == other.der;
        self.count() == other.count() && self.lists.iter().zip(&*other.lists).all(same)
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations")
            .field("lists", &self.count())
            .field("revoked", &self.revoked())
            .finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::certificates::dev_ca::DevCa;

    #[test]
    fn lists_are_read_and_compared() {
        let (one, two) = (DevCa::ephemeral().unwrap(), DevCa::ephemeral().unwrap());
        let now = SystemTime::now();
        let list = |ca: &DevCa, serials: &[&str], hours: u64| {
            ca.revoke(serials, now, now + Duration::from_secs(3600 * hours))
                .unwrap()
        };
        let both = list(&one, &["0a", "0b"], 2) + &list(&two, &["0c"], 1);
        let read = Revocations::from_pem(both.as_bytes()).unwrap();
        assert_eq!((read.count(), read.revoked()), (2, 3));
        let due = read.next_update().unwrap().duration_since(now).unwrap();
        assert!(due <= Duration::from_secs(3600), "{due:?}");
        assert_eq!(read, Revocations::from_pem(both.as_bytes()).unwrap());
        assert_ne!(read, Revocations::default());
        assert_eq!(Revocations::from_pem(b" \n").unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let text = |pem: &[u8]| Revocations::from_pem(pem).unwrap_err().to_string();
        assert_eq!(text(b"nothing of the kind"), "no CRL in it");
        let broken = b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
        assert!(text(broken).starts_with("CRL 0: "), "{}", text(broken));
        let cut = b"-----BEGIN X509 CRL-----\nAAAA\n";
        assert!(text(cut).starts_with("not PEM"), "{}", text(cut));
        let list = DevCa::ephemeral().unwrap();
        let now = SystemTime::now();
        let list = list
            .revoke(&[], now, now + Duration::from_secs(60))
            .unwrap();
        assert!(matches!(
            Revocations::from_pem(list.repeat(MAX_LISTS + 1).as_bytes()),
            Err(RevocationError::TooMany)
        ));
    }
}
