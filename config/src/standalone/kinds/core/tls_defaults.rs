//! `tlsDefaults` of MeshConfig: ciphers and key exchanges of TLS that proxies begin, other than the mesh's own.
//!
//! Its least version is for servers of gateways, as with istiod, and says nothing here. Nor does `meshMTLS`: that is for what sidecars
//! take, and a waypoint speaks TLS 1.3 inside the mesh.

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::TlsParameters;
use serde::Deserialize;

use crate::model::cluster::upstream_tls;
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsDefaults {
    pub cipher_suites: Vec<String>,
    pub ecdh_curves: Vec<String>,
    min_protocol_version: Version,
}

/// `meshMTLS`, of which nothing is used.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OfSidecars {
    ecdh_curves: Vec<String>,
    min_protocol_version: Version,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum Version {
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    #[serde(rename = "TLSV1_2")]
    Tls12,
    #[serde(rename = "TLSV1_3")]
    Tls13,
}

/// Fields of either.
pub(super) const FIELDS: &[&str] = &["cipherSuites", "ecdhCurves", "minProtocolVersion"];

impl TlsDefaults {
    /// Adds what they say.
    pub(crate) fn apply(&self, parameters: &mut TlsParameters) {
        parameters.cipher_suites.clone_from(&self.cipher_suites);
        parameters.ecdh_curves.clone_from(&self.ecdh_curves);
    }

    /// What isn't spoken here: the field, and which word. Clusters that begin TLS are refused for it.
    pub(super) fn unspoken(&self) -> Option<Refusal> {
        let of = |choice: TlsParameters| upstream_tls::choice(Some(&choice)).err();
        let suites = of(TlsParameters {
            cipher_suites: self.cipher_suites.clone(),
            ..TlsParameters::default()
        });
        let curves = of(TlsParameters {
            ecdh_curves: self.ecdh_curves.clone(),
            ..TlsParameters::default()
        });
        let found = suites.map(|why| ("cipherSuites", why));
        let (field, why) = found.or_else(|| curves.map(|why| ("ecdhCurves", why)))?;
        Some((field.to_owned(), why.reason.to_string()))
    }
}

impl OfSidecars {
    /// Istio's own check.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        match self.ecdh_curves.is_empty() {
            true => Ok(()),
            false => Err(refusal("ecdhCurves", "may not be given for meshMTLS")),
        }
    }
}
