//! The TLS side of HBONE: what we show to a peer, what we ask of it, and how both change while we run.
//!
//! TLS 1.3 only, ALPN `h2`, no resumption, no tickets, no SNI. Both sides are verified in the same way: the chain up to
//! our roots, the validity, exactly one URI SAN that is a SPIFFE ID, and its trust domain. Host names play no part. A
//! change builds new configurations and swaps them in one step; connections keep what they started with.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};

use crate::certificate::{Leaf, LeafError, WorkloadCertificate};
use crate::identity::{Identity, IdentityError, check_trust_domain};

pub(crate) const ALPN_H2: &[u8] = b"h2";

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

/// The certificate and trust domains in use. Clones share them: a change is seen by all.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    current: ArcSwap<TlsConfigs>,
    /// Held by writers only, and never over an await: two changes at once must not lose one.
    writer: Mutex<()>,
}

/// What the connections that start now use.
pub(crate) struct TlsConfigs {
    pub(crate) generation: u64,
    pub(crate) active: Option<Active>,
    trust_domains: TrustDomains,
}

pub(crate) struct Active {
    pub(crate) certificate: Arc<WorkloadCertificate>,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

impl Tls {
    /// Without a certificate, no connection can be made or accepted until one is set.
    pub fn new(certificate: Option<WorkloadCertificate>, trust_domains: TrustDomains) -> Tls {
        let configs = TlsConfigs::new(certificate.map(Arc::new), trust_domains, 0);
        Tls {
            shared: Arc::new(Shared {
                current: ArcSwap::from_pointee(configs),
                writer: Mutex::new(()),
            }),
        }
    }

    /// New connections use this certificate and its roots.
    pub fn set_certificate(&self, certificate: WorkloadCertificate) {
        let certificate = Arc::new(certificate);
        self.change(|current| (Some(certificate), current.trust_domains.clone()));
    }

    /// New connections accept peers of these trust domains.
    pub fn set_trust_domains(&self, trust_domains: TrustDomains) {
        self.change(|current| (current.certificate(), trust_domains));
    }

    fn change(
        &self,
        next: impl FnOnce(&TlsConfigs) -> (Option<Arc<WorkloadCertificate>>, TrustDomains),
    ) {
        let _writer = self.shared.writer.lock();
        let current = self.shared.current.load();
        let (certificate, trust_domains) = next(&current);
        let configs = TlsConfigs::new(certificate, trust_domains, current.generation + 1);
        self.shared.current.store(Arc::new(configs));
    }

    /// The certificate that new connections use.
    pub fn certificate(&self) -> Option<Arc<WorkloadCertificate>> {
        self.shared.current.load().certificate()
    }

    /// The trust domains that new connections accept.
    pub fn trust_domains(&self) -> TrustDomains {
        self.shared.current.load().trust_domains.clone()
    }

    /// Rises with each change of certificate or trust domains.
    pub fn generation(&self) -> u64 {
        self.shared.current.load().generation
    }

    /// Whether there is a certificate. It may have expired: see [`WorkloadCertificate::valid_at`].
    pub fn ready(&self) -> bool {
        self.shared.current.load().active.is_some()
    }

    pub(crate) fn configs(&self) -> Arc<TlsConfigs> {
        self.shared.current.load_full()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let configs = self.configs();
        f.debug_struct("Tls")
            .field("certificate", &configs.certificate())
            .field("generation", &configs.generation)
            .finish_non_exhaustive()
    }
}

impl TlsConfigs {
    fn new(
        certificate: Option<Arc<WorkloadCertificate>>,
        trust_domains: TrustDomains,
        generation: u64,
    ) -> TlsConfigs {
        let active = certificate.map(|certificate| {
            let verifier = Arc::new(SpiffeVerifier {
                own_trust_domain: certificate.identity().trust_domain().into(),
                trust_domains: trust_domains.clone(),
                client_chain: certificate.client_chain.clone(),
                roots: certificate.roots.clone(),
                provider: certificate.provider.clone(),
            });
            Active {
                server: Arc::new(server_config(&certificate, verifier.clone())),
                client: Arc::new(client_config(&certificate, verifier)),
                certificate,
            }
        });
        TlsConfigs {
            generation,
            active,
            trust_domains,
        }
    }

    fn certificate(&self) -> Option<Arc<WorkloadCertificate>> {
        self.active
            .as_ref()
            .map(|active| active.certificate.clone())
    }
}

fn server_config(certificate: &WorkloadCertificate, verifier: Arc<SpiffeVerifier>) -> ServerConfig {
    let mut config = certificate
        .server_builder
        .clone()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(
            certificate.key.as_ref().clone(),
        )));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // A resumed session would not be checked against roots and trust domains of today.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}

fn client_config(certificate: &WorkloadCertificate, verifier: Arc<SpiffeVerifier>) -> ClientConfig {
    let mut config = certificate
        .client_builder
        .clone()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
            certificate.key.as_ref().clone(),
        )));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

/// Verifies that a peer, client or server, is a workload of an accepted trust domain.
struct SpiffeVerifier {
    own_trust_domain: Box<str>,
    trust_domains: TrustDomains,
    client_chain: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl SpiffeVerifier {
    fn check_identity(&self, leaf: &CertificateDer<'_>) -> Result<(), rustls::Error> {
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
}

impl fmt::Debug for SpiffeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpiffeVerifier")
            .field("trust_domains", &self.trust_domains)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Roots of a mesh differ while they are rotated; a hint would make some clients send no certificate.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .client_chain
            .verify_client_cert(leaf, intermediates, now)?;
        self.check_identity(leaf)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        self.check_identity(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ClientCertVerifier::supported_verify_schemes(self)
    }
}

/// Verifies a certificate against the roots that came with it, at the present time.
pub(crate) fn verify_own_chain(certificate: &WorkloadCertificate) -> Result<(), rustls::Error> {
    let (leaf, intermediates) = certificate
        .key
        .cert
        .split_first()
        .ok_or(rustls::Error::NoCertificatesPresented)?;
    certificate
        .client_chain
        .verify_client_cert(leaf, intermediates, UnixTime::now())
        .map(|_| ())
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
    use crate::dev_ca::DevCa;

    fn certificate(ca: &DevCa, trust_domain: &str) -> WorkloadCertificate {
        let identity = Identity::istio(trust_domain, "ns", "sa").unwrap();
        ca.mint(&identity, Duration::from_secs(600))
            .unwrap()
            .workload()
            .unwrap()
    }

    #[test]
    fn the_generation_rises_with_each_change() {
        let ca = DevCa::ephemeral().unwrap();
        let tls = Tls::new(None, TrustDomains::default());
        let other = tls.clone();
        assert!(!tls.ready() && tls.certificate().is_none());
        tls.set_certificate(certificate(&ca, "td"));
        assert_eq!((other.generation(), other.ready()), (1, true));
        other.set_trust_domains(TrustDomains::new(["td", "other"]).unwrap());
        assert_eq!(tls.generation(), 2);
        assert_eq!(
            tls.certificate().unwrap().identity().as_str(),
            "spiffe://td/ns/ns/sa/sa"
        );
        assert_eq!(
            tls.trust_domains().iter().collect::<Vec<_>>(),
            ["other", "td"]
        );
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
    fn both_sides_check_chain_time_and_trust_domain() {
        let (ca, stranger) = (DevCa::ephemeral().unwrap(), DevCa::ephemeral().unwrap());
        let own = Arc::new(certificate(&ca, "td"));
        let verifier = SpiffeVerifier {
            own_trust_domain: "td".into(),
            trust_domains: TrustDomains::default(),
            client_chain: own.client_chain.clone(),
            roots: own.roots.clone(),
            provider: own.provider.clone(),
        };
        let verdicts = |peer: &WorkloadCertificate| {
            let (leaf, rest) = peer.key.cert.split_first().unwrap();
            let name = ServerName::try_from("ignored").unwrap();
            let server = verifier
                .verify_server_cert(leaf, rest, &name, &[], UnixTime::now())
                .map(|_| ());
            let client = verifier
                .verify_client_cert(leaf, rest, UnixTime::now())
                .map(|_| ());
            [client, server]
        };
        for verdict in verdicts(&own) {
            verdict.unwrap();
        }
        for verdict in verdicts(&certificate(&ca, "foreign")) {
            let error = verdict.unwrap_err();
            assert!(
                matches!(peer_error(&error), Some(PeerError::ForeignTrustDomain(_))),
                "{error:?}"
            );
        }
        for verdict in verdicts(&certificate(&stranger, "td")) {
            let error = verdict.unwrap_err();
            assert!(
                matches!(error, rustls::Error::InvalidCertificate(_)),
                "{error:?}"
            );
        }
        let past = SystemTime::now() - Duration::from_secs(7200);
        let identity = Identity::istio("td", "ns", "sa").unwrap();
        let expired = ca
            .mint_between(&identity, past, past + Duration::from_secs(60))
            .unwrap();
        for verdict in verdicts(&expired.workload().unwrap()) {
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
}
