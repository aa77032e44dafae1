//! The TLS side of HBONE: what we show to a peer, what we ask of it, and how both change while we run.
//!
//! TLS 1.3 only, ALPN `h2`, no resumption, no tickets, no SNI; both sides are verified in the same way, see
//! [`trust`](crate::certificates::trust). A change builds new configurations and swaps them in one step; connections keep what they
//! started with, and leave when trust has changed against them, see `standing`.

pub mod control_plane;
pub mod credentials;
pub mod origination;
pub mod origination_failure;
pub mod server_verifier;
pub(crate) mod standing;
pub mod tls_choice;
pub mod tls_failure;
pub mod tls_info;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};

use crate::certificates::certificate::WorkloadCertificate;
use crate::certificates::revocation::Revocations;
pub use crate::certificates::trust::{PeerError, TrustDomains};
use crate::certificates::trust::{PeerRole, Trust};
use crate::tls::tls_failure::TlsFailure;

pub(crate) const ALPN_H2: &[u8] = b"h2";

/// How long a connection may stay whose peer's root or trust domain is gone.
const TRUST_GRACE: Duration = Duration::from_secs(3600);

/// The certificate and the trust in use. Clones share them: a change is seen by all.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    current: ArcSwap<TlsConfigs>,
    /// [`TlsConfigs::trust_version`] of `current`, for those who look often.
    trust_version: AtomicU64,
    trust_grace_millis: AtomicU64,
    /// Held by writers only, and never over an await: two changes at once must not lose one.
    writer: Mutex<()>,
}

/// What the connections that start now use.
pub(crate) struct TlsConfigs {
    pub(crate) generation: u64,
    pub(crate) trust_version: u64,
    pub(crate) active: Option<Active>,
    trust_domains: TrustDomains,
    revocations: Revocations,
}

pub(crate) struct Active {
    pub(crate) certificate: Arc<WorkloadCertificate>,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    trust: Arc<Trust>,
}

impl Tls {
    /// Without a certificate, no connection can be made or accepted until one is set.
    pub fn new(certificate: Option<WorkloadCertificate>, trust_domains: TrustDomains) -> Tls {
        let configs = TlsConfigs::new(
            certificate.map(Arc::new),
            trust_domains,
            Revocations::default(),
        );
        Tls {
            shared: Arc::new(Shared {
                current: ArcSwap::from_pointee(configs),
                trust_version: AtomicU64::new(0),
                trust_grace_millis: AtomicU64::new(millis(TRUST_GRACE)),
                writer: Mutex::new(()),
            }),
        }
    }

    /// New connections use this certificate and its roots.
    pub fn set_certificate(&self, certificate: WorkloadCertificate) {
        let certificate = Some(Arc::new(certificate));
        self.change(|current| {
            let (domains, lists) = (current.trust_domains.clone(), current.revocations.clone());
            let next = TlsConfigs::new(certificate, domains, lists);
            next.of_generation(current.generation + 1)
        });
    }

    /// New connections accept peers of these trust domains.
    pub fn set_trust_domains(&self, trust_domains: TrustDomains) {
        self.change(|current| {
            let (certificate, lists) = (current.certificate(), current.revocations.clone());
            let next = TlsConfigs::new(certificate, trust_domains, lists);
            next.of_generation(current.generation + 1)
        });
    }

    /// Peers whose chain is in these lists aren't accepted, and are cut off.
    pub fn set_revocations(&self, revocations: Revocations) {
        self.change(|current| {
            let (certificate, domains) = (current.certificate(), current.trust_domains.clone());
            let next = TlsConfigs::new(certificate, domains, revocations);
            // Connections to those who aren't revoked are as good as before.
            next.of_generation(current.generation)
        });
    }

    /// How long a connection may stay whose peer's root or trust domain is gone.
    pub fn set_trust_grace(&self, grace: Duration) {
        let shared = &self.shared;
        shared
            .trust_grace_millis
            .store(millis(grace), Ordering::Relaxed);
    }

    fn change(&self, next: impl FnOnce(&TlsConfigs) -> TlsConfigs) {
        let _writer = self.shared.writer.lock();
        let current = self.shared.current.load();
        let mut configs = next(&current);
        configs.trust_version = current.trust_version + u64::from(!configs.trusts_as(&current));
        let version = configs.trust_version;
        self.shared.current.store(Arc::new(configs));
        self.shared.trust_version.store(version, Ordering::Release);
    }

    /// The certificate that new connections use.
    pub fn certificate(&self) -> Option<Arc<WorkloadCertificate>> {
        self.shared.current.load().certificate()
    }

    /// The trust domains that new connections accept.
    pub fn trust_domains(&self) -> TrustDomains {
        self.shared.current.load().trust_domains.clone()
    }

    /// The lists of revoked certificates in use.
    pub fn revocations(&self) -> Revocations {
        self.shared.current.load().revocations.clone()
    }

    /// Rises with each change of certificate or trust domains.
    pub fn generation(&self) -> u64 {
        self.shared.current.load().generation
    }

    /// Rises when peers may have lost, or won, our trust.
    pub(crate) fn trust_version(&self) -> u64 {
        self.shared.trust_version.load(Ordering::Acquire)
    }

    pub(crate) fn trust_grace(&self) -> Duration {
        Duration::from_millis(self.shared.trust_grace_millis.load(Ordering::Relaxed))
    }

    /// Whether there is a certificate. It may have expired: see [`WorkloadCertificate::valid_at`].
    pub fn ready(&self) -> bool {
        self.shared.current.load().active.is_some()
    }

    pub(crate) fn configs(&self) -> Arc<TlsConfigs> {
        self.shared.current.load_full()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
        revocations: Revocations,
    ) -> TlsConfigs {
        let active = certificate.map(|certificate| {
            let trust = Trust::new(&certificate, trust_domains.clone(), revocations.clone());
            let trust = Arc::new(trust);
            let verifier = Arc::new(SpiffeVerifier {
                trust: trust.clone(),
                provider: certificate.provider.clone(),
            });
            Active {
                server: Arc::new(server_config(&certificate, verifier.clone())),
                client: Arc::new(client_config(&certificate, verifier)),
                certificate,
                trust,
            }
        });
        TlsConfigs {
            generation: 0,
            trust_version: 0,
            active,
            trust_domains,
            revocations,
        }
    }

    fn of_generation(self, generation: u64) -> TlsConfigs {
        TlsConfigs { generation, ..self }
    }

    fn certificate(&self) -> Option<Arc<WorkloadCertificate>> {
        self.active
            .as_ref()
            .map(|active| active.certificate.clone())
    }

    fn trusts_as(&self, other: &TlsConfigs) -> bool {
        match (&self.active, &other.active) {
            (Some(one), Some(other)) => one.trust.is_same(&other.trust),
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether a peer with this chain would be accepted.
    pub(crate) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        role: PeerRole,
        at: UnixTime,
    ) -> Result<(), TlsFailure> {
        let (Some(active), Some((leaf, intermediates))) = (&self.active, chain.split_first())
        else {
            return Err(TlsFailure::NoPeerCertificate);
        };
        active
            .trust
            .check(leaf, intermediates, role, at)
            .map_err(|error| TlsFailure::from_rustls(&error))
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

/// Asks [`Trust`] on behalf of rustls.
struct SpiffeVerifier {
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for SpiffeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpiffeVerifier").finish_non_exhaustive()
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
        self.trust
            .check(leaf, intermediates, PeerRole::Client, now)?;
        Ok(ClientCertVerified::assertion())
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
        self.trust
            .check(leaf, intermediates, PeerRole::Server, now)?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::certificates::dev_ca::DevCa;
    use crate::identity::Identity;

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
    fn trust_changes_with_roots_trust_domains_and_lists_and_not_with_a_renewal() {
        let (ca, other) = (DevCa::ephemeral().unwrap(), DevCa::ephemeral().unwrap());
        let tls = Tls::new(Some(certificate(&ca, "td")), TrustDomains::default());
        let changed = |change: &dyn Fn()| {
            let before = tls.trust_version();
            change();
            tls.trust_version() != before
        };
        assert!(!changed(&|| tls.set_certificate(certificate(&ca, "td"))));
        assert!(changed(&|| tls.set_certificate(certificate(&other, "td"))));
        let domains = TrustDomains::new(["td", "other"]).unwrap();
        assert!(changed(&|| tls.set_trust_domains(domains.clone())));
        let now = SystemTime::now();
        let list = ca.revoke(&[], now, now + Duration::from_secs(60)).unwrap();
        let list = Revocations::from_pem(list.as_bytes()).unwrap();
        let generation = tls.generation();
        assert!(changed(&|| tls.set_revocations(list.clone())));
        assert!(!changed(&|| tls.set_revocations(list.clone())));
        assert_eq!(
            tls.generation(),
            generation,
            "pooled connections to others stay"
        );
    }
}
