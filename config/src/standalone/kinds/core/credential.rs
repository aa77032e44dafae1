//! Secrets and ConfigMaps as far as certificates, keys and roots are in them, by the names under which Istio looks for them.
//!
//! Nothing that a Secret holds is ever told: reasons name fields and keys. What the API server would refuse of a Secret is refused;
//! of types only what `kubernetes.io/tls` must have is looked at.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::known_fields::{KnownFields, Report};

pub(crate) const SECRET_FIELDS: &[KnownFields] = &[(
    "",
    Report::Always,
    &["data", "stringData", "type", "immutable"],
)];

/// Names of a certificate, its key, roots and a list of revoked certificates: Istio's own, then those of `kubernetes.io/tls`.
const NAMES: [[&str; 4]; 2] = [
    ["cert", "key", "cacert", "crl"],
    ["tls.crt", "tls.key", "ca.crt", "ca.crl"],
];
const TLS: &str = "kubernetes.io/tls";
/// Types that an istiod doesn't look at.
const NOT_READ: [&str; 2] = ["helm.sh/release.v1", "kubernetes.io/service-account-token"];
/// Bytes of all values of an object, as the API server has it.
const MAX_BYTES: usize = 1 << 20;

/// What of a Secret or a ConfigMap may be a credential.
#[derive(Clone, Default, PartialEq)]
pub struct Credential {
    /// By the names of [`NAMES`].
    values: BTreeMap<String, Vec<u8>>,
    /// All names.
    names: Vec<String>,
    /// The type for which an istiod takes no notice of it.
    not_read: Option<&'static str>,
}

/// Roots, and lists of revoked certificates, in PEM.
#[derive(Clone, Copy)]
pub struct Roots<'a> {
    pub certificates: &'a [u8],
    pub revocations: Option<&'a [u8]>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Copy)]
pub struct KeyPair<'a> {
    pub chain: &'a [u8],
    pub key: &'a [u8],
}

impl Credential {
    /// # Errors
    /// What the API server would refuse.
    pub fn of_secret(manifest: &Manifest) -> Result<Object<Credential>, LoadError> {
        let refused = |field: &str, reason: &str| Err(manifest.refused(field, reason));
        let mut all = BTreeMap::new();
        for field in ["data", "stringData"] {
            for (name, value) in entries(manifest, field)? {
                let at = format!("{field}.{name}");
                let Some(text) = value.as_str() else {
                    return refused(&at, "is no text");
                };
                if !is_key(name) {
                    return refused(&at, "is no name of a key");
                }
                let bytes = match field {
                    "data" => STANDARD.decode(text.replace(['\n', '\r'], "")).ok(),
                    _ => Some(text.as_bytes().to_vec()),
                };
                let Some(bytes) = bytes else {
                    return refused(&at, "isn't base64");
                };
                all.insert(name.clone(), bytes);
            }
        }
        let kind = match manifest.body.get("type") {
            None => "",
            Some(Value::String(kind)) => kind,
            Some(_) => return refused("type", "is no text"),
        };
        if all.values().map(Vec::len).sum::<usize>() > MAX_BYTES {
            return refused("data", "holds more than 1 MiB");
        }
        if kind == TLS {
            for name in ["tls.crt", "tls.key"] {
                if !all.contains_key(name) {
                    return refused(&format!("data[{name}]"), "is required by its type");
                }
            }
        }
        let not_read = NOT_READ.into_iter().find(|other| *other == kind);
        Ok(manifest.object(Credential::of(all, not_read)))
    }

    /// Texts of a ConfigMap.
    pub fn of_config_map(manifest: &Manifest) -> Object<Credential> {
        let texts = manifest.body.get("data").and_then(Value::as_object);
        let texts = texts.into_iter().flatten();
        let texts = texts.filter_map(|(name, value)| {
            let text = value.as_str()?;
            Some((name.clone(), text.as_bytes().to_vec()))
        });
        manifest.object(Credential::of(texts.collect(), None))
    }

    fn of(all: BTreeMap<String, Vec<u8>>, not_read: Option<&'static str>) -> Credential {
        Credential {
            names: all.keys().cloned().collect(),
            values: all
                .into_iter()
                .filter(|(name, _)| NAMES.as_flattened().contains(&name.as_str()))
                .collect(),
            not_read,
        }
    }

    /// # Errors
    /// Why there is none, in words that follow the object's name.
    pub fn key_pair(&self) -> Result<KeyPair<'_>, String> {
        self.check_type()?;
        for [chain, key, _, _] in NAMES {
            if let (Some(chain), Some(key)) = (self.value(chain), self.value(key)) {
                return Ok(KeyPair { chain, key });
            }
        }
        Err(self.without("tls.crt and tls.key, or cert and key"))
    }

    /// # Errors
    /// Why there are none, in words that follow the object's name.
    pub fn roots(&self) -> Result<Roots<'_>, String> {
        self.check_type()?;
        for [_, _, roots, revocations] in NAMES {
            if let Some(certificates) = self.value(roots) {
                return Ok(Roots {
                    certificates,
                    revocations: self.value(revocations),
                });
            }
        }
        Err(self.without("ca.crt or cacert"))
    }

    fn check_type(&self) -> Result<(), String> {
        match self.not_read {
            Some(kind) => Err(format!("is of type {kind}, which holds no credential")),
            None => Ok(()),
        }
    }

    /// `None`: it isn't there, or empty.
    fn value(&self, name: &str) -> Option<&[u8]> {
        let value = self.values.get(name).map(Vec::as_slice);
        value.filter(|value| !value.is_empty())
    }

    fn without(&self, wanted: &str) -> String {
        const TOLD: usize = 3;
        let told = self.names.get(..TOLD).unwrap_or(&self.names).join(", ");
        match self.names.len() {
            0 => format!("has no {wanted}: it is empty"),
            1..=TOLD => format!("has no {wanted} with a value, only {told}"),
            all => format!(
                "has no {wanted} with a value, only {told} and {} more",
                all - TOLD
            ),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

fn entries<'a>(
    manifest: &'a Manifest,
    field: &str,
) -> Result<impl Iterator<Item = (&'a String, &'a Value)>, LoadError> {
    match manifest.body.get(field) {
        None => Ok(None.into_iter().flatten()),
        Some(Value::Object(entries)) => Ok(Some(entries).into_iter().flatten()),
        Some(_) => Err(manifest.refused(field, "is no mapping")),
    }
}

fn is_key(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(allowed)
        && name != "."
        && !name.starts_with("..")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn secret(rest: &str) -> Result<Credential, String> {
        let text = format!("{{apiVersion: v1, kind: Secret, metadata: {{name: s}}, {rest}}}");
        let read = Credential::of_secret(&Manifest::of(&text));
        read.map(|object| object.spec)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn istios_own_names_come_first_and_empty_values_are_none() {
        let found = secret(
            "type: kubernetes.io/tls, data: {tls.crt: QQ==, tls.key: Qg==, ca.crt: Qw==, ca.crl: RA==}, \
             stringData: {cert: a, key: b, cacert: '', crl: x}",
        )
        .unwrap();
        let pair = found.key_pair().unwrap();
        assert_eq!((pair.chain, pair.key), (&b"a"[..], &b"b"[..]));
        let roots = found.roots().unwrap();
        assert_eq!(roots.certificates, b"C");
        assert_eq!(roots.revocations, Some(&b"D"[..]));
        assert!(!format!("{found:?}").contains("65"), "{found:?}");
        // What stringData says stands.
        let found = secret("data: {cert: QQ==}, stringData: {cert: b, key: c}").unwrap();
        assert_eq!(found.key_pair().unwrap().chain, b"b");
        let other = secret("stringData: {a: x, b: x, c: x, d: x}").unwrap();
        assert_eq!(
            other.roots().err().unwrap(),
            "has no ca.crt or cacert with a value, only a, b, c and 1 more"
        );
        let helm = secret("type: helm.sh/release.v1, stringData: {cacert: x}").unwrap();
        assert!(helm.roots().err().unwrap().contains("helm.sh"));
    }

    #[test]
    fn what_the_api_server_refuses_is_refused_without_its_value() {
        for (rest, field) in [
            ("data: {a: hidden!}", "data.a: isn't base64"),
            ("data: {a: 4711}", "data.a: is no text"),
            ("data: {'a b': ''}", "data.a b: is no name"),
            ("data: [hidden]", "data: is no mapping"),
            ("type: [hidden]", "type: is no text"),
            (
                "type: kubernetes.io/tls, data: {tls.crt: ''}",
                "data[tls.key]: is required",
            ),
        ] {
            let error = secret(rest).unwrap_err();
            assert!(error.contains(field), "{rest}: {error}");
            assert!(
                !error.contains("hidden") && !error.contains("4711"),
                "{error}"
            );
        }
    }
}
