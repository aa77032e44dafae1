//! Whom we trust, and the verdict on a peer's chain: the same for clients and servers, at the handshake and later.
//!
//! A chain leads to one of our roots, is valid at the time and not revoked; its leaf carries exactly one URI SAN that is a
//! SPIFFE ID, of a trust domain that we accept. Host names play no part.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use rustls::{CertRevocationListError, CertificateError, OtherError, RootCertStore};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use crate::certificates::certificate::WorkloadCertificate;
use crate::certificates::revocation::Revocations;
use crate::certificates::x509::{Leaf, LeafError};
use crate::identity::{Identity, IdentityError, check_trust_domain};

/// The trust domains whose workloads may be our peers.
///
/// The empty set means: the trust domain of our own certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustDomains {
    names: Arc<BTreeSet<Box<str>>>,
}

impl TrustDomains {
    /// A set of trust domains; each name is checked.
    pub fn new<S: AsRef<str>>(
        names: impl IntoIterator<Item = S>,
    ) -> Result<TrustDomains, IdentityError> {
        let names = names
            .into_iter()
            .map(|name| check_trust_domain(name.as_ref()).map(|()| Box::from(name.as_ref())))
            .collect::<Result<BTreeSet<Box<str>>, _>>()?;
        Ok(TrustDomains {
            names: Arc::new(names),
        })
    }

    /// Whether a peer of this trust domain is accepted by a workload whose own trust domain is `own`.
    pub fn accepts(&self, trust_domain: &str, own: &str) -> bool {
        if self.names.is_empty() {
            trust_domain == own
        } else {
            self.names.contains(trust_domain)
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(AsRef::as_ref)
    }
}

/// Why a peer's certificate, though its chain is good, isn't accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("peer certificate: {0}")]
    Leaf(#[from] LeafError),
    #[error("peer {0} is of a foreign trust domain")]
    ForeignTrustDomain(Identity),
}

/// Which side of a connection the peer is: its certificate must be for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerRole {
    Client,
    Server,
}

/// All that decides whether a peer is accepted.
pub(crate) struct Trust {
    roots: Arc<RootCertStore>,
    revocations: Revocations,
    trust_domains: TrustDomains,
    own_trust_domain: Box<str>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
}

impl Trust {
    pub(crate) fn new(
        certificate: &WorkloadCertificate,
        trust_domains: TrustDomains,
        revocations: Revocations,
    ) -> Trust {
        Trust {
            roots: certificate.roots.clone(),
            revocations,
            trust_domains,
            own_trust_domain: certificate.identity().trust_domain().into(),
            algorithms: certificate.provider.signature_verification_algorithms.all,
        }
    }

    /// Whether both come to the same verdict on every peer.
    pub(crate) fn is_same(&self, other: &Trust) -> bool {
        self.roots.roots == other.roots.roots
            && self.revocations == other.revocations
            && self.trust_domains == other.trust_domains
            && self.own_trust_domain == other.own_trust_domain
    }

    /// # Errors
    /// Why the peer isn't accepted; rustls tells it by the alert that fits.
    pub(crate) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: PeerRole,
        at: UnixTime,
    ) -> Result<(), rustls::Error> {
        self.check_chain(leaf, intermediates, role, at)?;
        let refuse = |error: PeerError| CertificateError::Other(OtherError(Arc::new(error)));
        let identity = Leaf::identity(leaf).map_err(|error| refuse(error.into()))?;
        if !self
            .trust_domains
            .accepts(identity.trust_domain(), &self.own_trust_domain)
        {
            return Err(refuse(PeerError::ForeignTrustDomain(identity)).into());
        }
        Ok(())
    }

    fn check_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: PeerRole,
        at: UnixTime,
    ) -> Result<(), rustls::Error> {
        let leaf = EndEntityCert::try_from(leaf).map_err(refused)?;
        let mut lists = self.revocations.lists();
        // A list is found by its issuer's name, and roots that follow each other often share one: each
        // list gets its turn to be found first.
        let mut turns = lists.len();
        loop {
            let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
                options
                    .with_depth(RevocationCheckDepth::Chain)
                    .with_status_policy(UnknownStatusPolicy::Allow)
                    .with_expiration_policy(ExpirationPolicy::Ignore)
                    .build()
            });
            let usage = match role {
                PeerRole::Client => KeyUsage::client_auth(),
                PeerRole::Server => KeyUsage::server_auth(),
            };
            let verified = leaf.verify_for_usage(
                self.algorithms,
                &self.roots.roots,
                intermediates,
                at,
                usage,
                revocation,
                None,
            );
            match verified {
                Ok(_) => return Ok(()),
                Err(webpki::Error::InvalidCrlSignatureForPublicKey) if turns > 1 => {
                    turns -= 1;
                    lists.rotate_left(1);
                }
                Err(error) => return Err(refused(error)),
            }
        }
    }
}

/// webpki's verdict in rustls' words.
pub(crate) fn refused(error: webpki::Error) -> rustls::Error {
    use webpki::Error;
    let reason = match error {
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => CertificateError::BadEncoding,
        Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        // Roots that follow each other often share a name: then it is the signature that doesn't fit.
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => {
            CertificateError::UnknownIssuer
        }
        Error::CertRevoked => CertificateError::Revoked,
        Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        Error::InvalidCrlSignatureForPublicKey => {
            return CertRevocationListError::BadSignature.into();
        }
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    reason.into()
}

/// Verifies a certificate against the roots that came with it, at the present time.
pub(crate) fn verify_own_chain(certificate: &WorkloadCertificate) -> Result<(), rustls::Error> {
    let (leaf, intermediates) = certificate
        .key
        .cert
        .split_first()
        .ok_or(rustls::Error::NoCertificatesPresented)?;
    Trust::new(certificate, TrustDomains::default(), Revocations::default()).check_chain(
        leaf,
        intermediates,
        PeerRole::Client,
        UnixTime::now(),
    )
}

/// What the handshake failed on, in words for a log: rustls wraps our own reasons.
pub(crate) fn peer_error(error: &rustls::Error) -> Option<&PeerError> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref()
        }
        _ => None,
    }
}

/// The identity of a connection's peer, after the handshake.
pub(crate) fn peer_identity(chain: Option<&[CertificateDer<'_>]>) -> Result<Identity, PeerError> {
    let leaf = chain.and_then(<[_]>::first).ok_or(LeafError::NoUri)?;
    Ok(Leaf::identity(leaf)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::certificates::dev_ca::DevCa;

    fn certificate(ca: &DevCa, trust_domain: &str) -> WorkloadCertificate {
        let identity = Identity::istio(trust_domain, "ns", "sa").unwrap();
        ca.mint(&identity, Duration::from_secs(600))
            .unwrap()
            .workload()
            .unwrap()
    }

    fn verdicts(trust: &Trust, peer: &WorkloadCertificate) -> [Result<(), rustls::Error>; 2] {
        let (leaf, rest) = peer.key.cert.split_first().unwrap();
        [PeerRole::Client, PeerRole::Server]
            .map(|role| trust.check(leaf, rest, role, UnixTime::now()))
    }

    fn trust(own: &WorkloadCertificate, revocations: &str) -> Trust {
        let revocations = Revocations::from_pem(revocations.as_bytes()).unwrap();
        Trust::new(own, TrustDomains::default(), revocations)
    }

    #[test]
    fn trust_domains_default_to_our_own() {
        let own = TrustDomains::default();
        assert!(own.accepts("a", "a") && !own.accepts("b", "a"));
        let listed = TrustDomains::new(["b"]).unwrap();
        assert!(listed.accepts("b", "a") && !listed.accepts("a", "a"));
        assert!(TrustDomains::new(["Not.Lower"]).is_err());
    }

    #[test]
    fn chain_time_and_trust_domain_are_checked_of_both_sides() {
        let (ca, stranger) = (DevCa::ephemeral().unwrap(), DevCa::ephemeral().unwrap());
        let own = certificate(&ca, "td");
        let trust = trust(&own, "");
        for verdict in verdicts(&trust, &own) {
            verdict.unwrap();
        }
        for verdict in verdicts(&trust, &certificate(&ca, "foreign")) {
            let error = verdict.unwrap_err();
            assert!(
                matches!(peer_error(&error), Some(PeerError::ForeignTrustDomain(_))),
                "{error:?}"
            );
        }
        for verdict in verdicts(&trust, &certificate(&stranger, "td")) {
            assert_eq!(verdict, Err(CertificateError::UnknownIssuer.into()));
        }
        let past = SystemTime::now() - Duration::from_secs(7200);
        let identity = Identity::istio("td", "ns", "sa").unwrap();
        let expired = ca
            .mint_between(&identity, past, past + Duration::from_secs(60))
            .unwrap();
        for verdict in verdicts(&trust, &expired.workload().unwrap()) {
            let error = verdict.unwrap_err();
            use rustls::Error::InvalidCertificate;
            assert!(
                matches!(
                    error,
                    InvalidCertificate(CertificateError::ExpiredContext { .. })
                ),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_revoked_certificate_is_refused_and_an_overdue_list_still_counts() {
        let (ca, other) = (DevCa::ephemeral().unwrap(), DevCa::ephemeral().unwrap());
        let (own, peer) = (certificate(&ca, "td"), certificate(&ca, "td"));
        let past = SystemTime::now() - Duration::from_secs(7200);
        let overdue = past + Duration::from_secs(60);
        let list = ca.revoke(&[peer.serial()], past, overdue).unwrap();
        // The other CA has the same name, and its list stands before the one that counts.
        let both = other.revoke(&[], past, overdue).unwrap() + &list;
        for lists in [&list, &both] {
            let trust = trust(&own, lists);
            for verdict in verdicts(&trust, &peer) {
                let revoked = CertificateError::Revoked;
                assert_eq!(verdict, Err(revoked.into()));
            }
            for verdict in verdicts(&trust, &own) {
                verdict.unwrap();
            }
        }
        let foreign = other.revoke(&[], past, overdue).unwrap();
        for verdict in verdicts(&trust(&own, &foreign), &own) {
            verdict.expect_err("the list that bears the issuer's name isn't the issuer's");
        }
    }

    #[test]
    fn trust_is_the_same_with_the_same_roots_whatever_the_certificate() {
        let (ca, other) = (DevCa::ephemeral().unwrap(), DevCa::ephemeral().unwrap());
        let first = trust(&certificate(&ca, "td"), "");
        assert!(first.is_same(&trust(&certificate(&ca, "td"), "")));
        assert!(!first.is_same(&trust(&certificate(&ca, "elsewhere"), "")));
        assert!(!first.is_same(&trust(&certificate(&other, "td"), "")));
        let now = SystemTime::now();
        let list = ca.revoke(&[], now, now + Duration::from_secs(60)).unwrap();
        assert!(!first.is_same(&trust(&certificate(&ca, "td"), &list)));
    }
}
