//! `tls` and `proxyProtocol` of a traffic policy: what a connection to an endpoint begins with.

use serde::Deserialize;

use crate::standalone::kinds::refusal::{Refusal, refusal};

/// Certificates in a ConfigMap.
pub const CONFIG_MAP: &str = "configmap://";
/// What istiod makes of a reference that can't be used: a secret that never comes.
pub const INVALID: &str = "invalid://";

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientTls {
    pub mode: TlsMode,
    pub client_certificate: String,
    pub private_key: String,
    pub ca_certificates: String,
    pub credential_name: String,
    pub subject_alt_names: Vec<String>,
    pub sni: String,
    pub insecure_skip_verify: Option<bool>,
    pub ca_crl: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    #[default]
    Disable,
    Simple,
    Mutual,
    /// With a sidecar's certificate; to a waypoint it says nothing.
    IstioMutual,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyProtocol {
    pub version: ProxyProtocolVersion,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ProxyProtocolVersion {
    #[default]
    V1,
    V2,
}

impl ClientTls {
    /// Whether the waypoint itself begins TLS.
    pub fn originates(&self) -> bool {
        matches!(self.mode, TlsMode::Simple | TlsMode::Mutual)
    }

    pub fn skips_verification(&self) -> bool {
        self.insecure_skip_verify == Some(true)
    }

    pub(super) fn check(&self, namespace: &str) -> Result<(), Refusal> {
        if let Some(rest) = self.credential_name.strip_prefix(CONFIG_MAP) {
            let mut parts = rest.split('/');
            let (first, second) = (parts.next(), parts.next());
            let sound = second.is_none_or(|name| !name.is_empty() && first == Some(namespace));
            if rest.is_empty() || parts.next().is_some() || !sound {
                let reason = format!("{:?} is no ConfigMap of {namespace}", self.credential_name);
                return Err(refusal("credentialName", reason));
            }
        }
        if self.skips_verification() {
            let simple = self.mode == TlsMode::Simple && !self.credential_name.is_empty();
            let named = !self.ca_certificates.is_empty() || !self.subject_alt_names.is_empty();
            if self.originates() && (simple || named) {
                let reason = "may not be true beside what the server would be checked with";
                return Err(refusal("insecureSkipVerify", reason));
            }
        }
        if self.originates() && !self.credential_name.is_empty() {
            let files = [
                &self.client_certificate,
                &self.ca_certificates,
                &self.private_key,
                &self.ca_crl,
            ];
            return match files.iter().all(|file| file.is_empty()) {
                true => Ok(()),
                false => Err(refusal("credentialName", "may not be given beside files")),
            };
        }
        if self.mode == TlsMode::Mutual {
            for (field, file) in [
                ("clientCertificate", &self.client_certificate),
                ("privateKey", &self.private_key),
            ] {
                if file.is_empty() {
                    return Err(refusal(field, "is required where mode is MUTUAL"));
                }
            }
        }
        Ok(())
    }
}
