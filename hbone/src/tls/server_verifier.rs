//! The verdict on a server that isn't of the mesh: its chain, and the names in its certificate. As Envoy comes to it.
//!
//! What would surprise: a name isn't checked because it is SNI, but because somebody asked for it; a certificate that is itself
//! among the roots is good as it is; and a wildcard stands for a part of the first label, too.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use crate::certificates::certificate_fields::{CertificateFields, NameKind};
use crate::certificates::trust::refused;
use crate::tls::credentials::ServerRoots;

/// Says of each of a server's names whether it will do.
pub type NameCheck = Arc<dyn Fn(NameKind, &str) -> bool + Send + Sync>;

pub(crate) struct ServerVerifier {
    roots: Option<ServerRoots>,
    names: Option<NameCheck>,
    /// Asked for by one connection, instead of `names`.
    name: Option<Box<str>>,
    provider: Arc<CryptoProvider>,
}

impl ServerVerifier {
    pub(crate) fn new(
        roots: Option<ServerRoots>,
        names: Option<NameCheck>,
        name: Option<Box<str>>,
        provider: Arc<CryptoProvider>,
    ) -> ServerVerifier {
        ServerVerifier {
            roots,
            names,
            name,
            provider,
        }
    }

    fn check_chain(
        &self,
        roots: &ServerRoots,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if roots.certificates.contains(leaf) {
            return check_time(leaf, now);
        }
        let shown = leaf;
        let leaf = EndEntityCert::try_from(leaf).map_err(refused)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let anchors = &roots.store.roots;
        let mut lists = match &roots.revocations {
            Some(revocations) => revocations.lists(),
            None => Vec::new(),
        };
        // A list is found by its issuer's name, which roots that follow each other often share: each gets its turn.
        let mut turns = lists.len();
        loop {
            let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
                options
                    .with_depth(RevocationCheckDepth::Chain)
                    .with_status_policy(UnknownStatusPolicy::Deny)
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build()
            });
            let usage = KeyUsage::server_auth();
            let verified = leaf.verify_for_usage(
                algorithms,
                anchors,
                intermediates,
                now,
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
                Err(error) => return Err(verdict(error, shown)),
            }
        }
    }

    fn check_names(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        if self.name.is_none() && self.names.is_none() {
            return Ok(());
        }
        let fields = CertificateFields::read(leaf)
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let will_do = |kind: NameKind, name: &str| match (&self.name, &self.names) {
            (Some(wanted), _) if kind == NameKind::Dns => dns_name_matches(wanted, name),
            (Some(wanted), _) => matches!(kind, NameKind::Uri | NameKind::Ip) && **wanted == *name,
            (None, Some(check)) => check(kind, name),
            (None, None) => true,
        };
        if fields.all_names().any(|(kind, name)| will_do(kind, name)) {
            return Ok(());
        }
        let names = fields.all_names().take(MAX_TOLD).map(|(_, name)| name);
        let names = names.collect::<Vec<_>>().join(", ");
        Err(told(match &self.name {
            Some(name) => {
                format!("verify SAN list, expected SANs: [{name}], certificate SANs: [{names}]")
            }
            None => format!("SAN matcher, certificate SANs are [{names}]"),
        }))
    }
}

/// Names of a certificate that are told of.
const MAX_TOLD: usize = 16;

/// Why a server is refused, where rustls has no word for it: in Envoy's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Verdict(String);

fn told(words: String) -> Error {
    CertificateError::Other(OtherError(Arc::new(Verdict(words)))).into()
}

/// One that vouches for itself is told apart, and so is what lists of revoked certificates don't say.
fn verdict(error: webpki::Error, leaf: &CertificateDer<'_>) -> Error {
    match &error {
        webpki::Error::UnknownRevocationStatus => {
            return told(format!("{CHAIN}unable to get certificate CRL"));
        }
        webpki::Error::CrlExpired { .. } => return told(format!("{CHAIN}CRL has expired")),
        _ => {}
    }
    let is_own = |fields: CertificateFields| fields.subject == fields.issuer;
    let unknown = matches!(error, webpki::Error::UnknownIssuer);
    if unknown && CertificateFields::read(leaf).is_some_and(is_own) {
        return told(format!("{CHAIN}self signed certificate"));
    }
    refused(error)
}

/// Before what BoringSSL says of a chain.
pub(crate) const CHAIN: &str = "X509_verify_cert: certificate verification error at depth 0: ";

/// Only when it is valid counts of a certificate that is trusted by itself.
fn check_time(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let fields = CertificateFields::read(leaf)
        .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
    if now > fields.not_after {
        return Err(CertificateError::Expired.into());
    }
    if now < fields.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(())
}

/// Whether a certificate's name, which may have a wildcard in its first label, stands for `name`.
pub fn dns_name_matches(name: &str, of_certificate: &str) -> bool {
    if name.eq_ignore_ascii_case(of_certificate) {
        return true;
    }
    let (Some((label, rest)), Some((pattern, domain))) =
        (name.split_once('.'), of_certificate.split_once('.'))
    else {
        return false;
    };
    let Some((prefix, suffix)) = pattern.split_once('*') else {
        return false;
    };
    let label = label.to_ascii_lowercase();
    let (prefix, suffix) = (prefix.to_ascii_lowercase(), suffix.to_ascii_lowercase());
    // Parts of a label in another alphabet mean nothing.
    rest.eq_ignore_ascii_case(domain)
        && !suffix.contains('*')
        && !prefix.starts_with("xn--")
        && (pattern == "*" || !label.starts_with("xn--"))
        && !label.is_empty()
        && label.len() >= prefix.len() + suffix.len()
        && label.starts_with(&prefix)
        && label.ends_with(&suffix)
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _sni: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            self.check_chain(roots, leaf, intermediates, now)?;
            self.check_names(leaf)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_a_part_of_the_first_label() {
        for (name, pattern) in [
            ("api.example.com", "API.example.com"),
            ("api.example.com", "*.example.com"),
            ("api.example.com", "a*.example.com"),
            ("api.example.com", "a*i.example.com"),
        ] {
            assert!(dns_name_matches(name, pattern), "{name} {pattern}");
        }
        for (name, pattern) in [
            ("example.com", "*.example.com"),
            ("a.b.example.com", "*.example.com"),
            ("api.example.com", "api.*.com"),
            ("api.example.com", "*"),
            ("api.example.com", "**.example.com"),
            ("api.example.com", "b*.example.com"),
            ("xn--bcher-kva.example.com", "xn--*.example.com"),
            ("api.example.org", "*.example.com"),
        ] {
            assert!(!dns_name_matches(name, pattern), "{name} {pattern}");
        }
    }
}
