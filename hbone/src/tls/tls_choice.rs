//! Ciphers of TLS 1.2 and key exchanges by the names that OpenSSL has for them. TLS 1.3's ciphers aren't chosen.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, NamedGroup, SupportedCipherSuite};

/// What connections may use; empty lists: what is good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsChoice {
    suites: Vec<CipherSuite>,
    groups: Vec<NamedGroup>,
}

impl TlsChoice {
    /// # Errors
    /// The name that isn't known, or isn't safe enough to be spoken.
    pub fn new<'a>(
        suites: impl Iterator<Item = &'a str>,
        groups: impl Iterator<Item = &'a str>,
    ) -> Result<TlsChoice, String> {
        let unknown = |name: &str| format!("{name:?} is not spoken");
        let suites = suites.map(|name| suite(name).ok_or_else(|| unknown(name)));
        let groups = groups.map(|name| group(name).ok_or_else(|| unknown(name)));
        Ok(TlsChoice {
            suites: suites.collect::<Result<_, _>>()?,
            groups: groups.collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if !self.suites.is_empty() {
            let all = std::mem::take(&mut provider.cipher_suites);
            let new = all.iter().filter(|suite| suite.tls13().is_some());
            let chosen = self.suites.iter();
            let chosen = chosen.filter_map(|name| all.iter().find(|suite| suite.suite() == *name));
            provider.cipher_suites = new
                .chain(chosen)
                .copied()
                .collect::<Vec<SupportedCipherSuite>>();
        }
        if !self.groups.is_empty() {
            let all = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS;
            let chosen = self.groups.iter();
            let chosen = chosen.filter_map(|name| all.iter().find(|group| group.name() == *name));
            provider.kx_groups = chosen.copied().collect();
        }
        Arc::new(provider)
    }
}

fn suite(name: &str) -> Option<CipherSuite> {
    use CipherSuite as Suite;
    Some(match name {
        "ECDHE-ECDSA-AES128-GCM-SHA256" => Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-RSA-AES128-GCM-SHA256" => Suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-RSA-AES256-GCM-SHA384" => Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-RSA-CHACHA20-POLY1305" => Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        _ => return None,
    })
}

fn group(name: &str) -> Option<NamedGroup> {
    Some(match name {
        "X25519" => NamedGroup::X25519,
        "P-256" => NamedGroup::secp256r1,
        "P-384" => NamedGroup::secp384r1,
        "X25519MLKEM768" => NamedGroup::X25519MLKEM768,
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_is_all_there_is_beside_tls_13() {
        let choice = TlsChoice::new(
            ["ECDHE-RSA-AES128-GCM-SHA256"].into_iter(),
            ["P-256"].into_iter(),
        );
        let provider = choice.unwrap().provider();
        let old = provider
            .cipher_suites
            .iter()
            .filter(|s| s.tls13().is_none());
        assert_eq!(old.count(), 1);
        assert_eq!(provider.kx_groups.len(), 1);
        let error = TlsChoice::new(["AES128-SHA"].into_iter(), [].into_iter()).unwrap_err();
        assert_eq!(error, "\"AES128-SHA\" is not spoken");
    }
}
