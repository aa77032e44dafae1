//! Secrets that clusters refer to by name, as istiod serves them: out of Secrets of the waypoint's namespace, and out of ConfigMaps.
//!
//! What can't be had has no resource: connections that need it fail, as with Envoy. Whether the waypoint's account may read Secrets
//! says nobody here.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

use crate::resource::{Resource, ResourceType};
use crate::standalone::input::manifest::ObjectName;
use crate::standalone::kinds::core::credential::{Credential, Roots};
use crate::standalone::kinds::traffic_policy::client_tls::{CONFIG_MAP, ClientTls, TlsMode};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::resource;

/// After the name of a credential: its roots.
pub(super) const CA_SUFFIX: &str = "-cacert";
/// How credentials are named that aren't of a ConfigMap.
pub(super) const SECRET: &str = "kubernetes://";

/// The names under which a cluster asks for what a `credentialName` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SecretNames {
    pub(super) key: Option<String>,
    pub(super) roots: Option<String>,
}

impl SecretNames {
    /// `None`: no credential is named.
    pub(super) fn of(settings: &ClientTls) -> Option<SecretNames> {
        let name = settings.credential_name.as_str();
        if name.is_empty() {
            return None;
        }
        Some(SecretNames {
            key: (settings.mode == TlsMode::Mutual).then(|| resource_name(name)),
            roots: (!settings.skips_verification())
                .then(|| resource_name(&format!("{name}{CA_SUFFIX}"))),
        })
    }

    fn iter(&self) -> impl Iterator<Item = &String> {
        self.key.iter().chain(&self.roots)
    }
}

/// As istiod names a resource.
fn resource_name(name: &str) -> String {
    let name = name.strip_prefix("sds://").unwrap_or(name);
    let typed = [CONFIG_MAP, SECRET, "kubernetes-gateway://"];
    if name == "builtin://" {
        "default".to_owned()
    } else if name == "builtin://-cacert" {
        "ROOTCA".to_owned()
    } else if name.starts_with("invalid://") {
        "invalid://".to_owned()
    } else if typed.iter().any(|prefix| name.starts_with(prefix)) {
        name.to_owned()
    } else {
        format!("{SECRET}{name}")
    }
}

/// Whether it is the workload's own.
pub(super) fn is_own(name: &str) -> bool {
    matches!(name, "default" | "ROOTCA")
}

impl Mesh<'_> {
    /// A cluster asks for what this names.
    pub(super) fn ask_for_credential(&self, settings: Option<&ClientTls>) {
        let names = settings
            .filter(|tls| tls.originates())
            .and_then(SecretNames::of);
        let names = names.iter().flat_map(SecretNames::iter);
        let names = names.filter(|name| !is_own(name)).cloned();
        self.credentials.borrow_mut().extend(names);
    }

    /// The secrets that clusters ask for and that can be had.
    pub(in crate::standalone::translate) fn secrets(&self) -> Vec<Resource> {
        let names = self.credentials.borrow();
        let found = names.iter().filter_map(|name| {
            let secret = self.secret(name).ok()?;
            Some(resource(ResourceType::Secret, name, &secret))
        });
        found.collect()
    }

    /// Why what a `credentialName` names can't be had, each reason once.
    pub(in crate::standalone::translate) fn missing_credentials(
        &self,
        settings: &ClientTls,
    ) -> Vec<String> {
        let names = SecretNames::of(settings);
        let names = names.iter().flat_map(SecretNames::iter);
        let names = names.filter(|name| !is_own(name) && *name != "invalid://");
        let mut reasons: Vec<String> = names.filter_map(|name| self.secret(name).err()).collect();
        reasons.dedup();
        reasons
    }

    fn secret(&self, name: &str) -> Result<tls::Secret, String> {
        let (kind, of, object) = self.credential(name)?;
        let inline = |bytes: &[u8]| {
            Some(core::DataSource {
                specifier: Some(core::data_source::Specifier::InlineBytes(bytes.to_vec())),
                ..core::DataSource::default()
            })
        };
        let told = |reason: String| format!("{kind} {of} {reason}");
        let is_roots = kind == "ConfigMap" || name.ends_with(CA_SUFFIX);
        let content = if is_roots {
            let Roots {
                certificates,
                revocations,
            } = object.roots().map_err(told)?;
            tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
                trusted_ca: inline(certificates),
                crl: revocations.and_then(inline),
                ..tls::CertificateValidationContext::default()
            })
        } else {
            let pair = object.key_pair().map_err(told)?;
            tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: inline(pair.chain),
                private_key: inline(pair.key),
                ..tls::TlsCertificate::default()
            })
        };
        Ok(tls::Secret {
            name: name.to_owned(),
            r#type: Some(content),
        })
    }

    /// The object that holds what a resource is made of, and its kind.
    fn credential(&self, name: &str) -> Result<(&'static str, ObjectName, &Credential), String> {
        let own = &self.waypoint.gateway.meta.namespace;
        if let Some(rest) = name.strip_prefix(CONFIG_MAP) {
            let name = rest.strip_suffix(CA_SUFFIX).unwrap_or(rest);
            let Some((namespace, name)) = name.split_once('/') else {
                return Err(format!("as with istiod {name:?} has to name a namespace"));
            };
            let name = ObjectName::new(namespace, name);
            return match self.state.config_maps.get(&name) {
                Some(found) => Ok(("ConfigMap", name, &found.spec)),
                None => Err(format!("no ConfigMap {name} is among the manifests")),
            };
        }
        let Some(rest) = name.strip_prefix(SECRET) else {
            return Err(format!("{name:?} is for gateways"));
        };
        let (namespace, name) = rest.split_once('/').unwrap_or((own, rest));
        if namespace != own {
            return Err(format!(
                "a waypoint may not have Secrets of namespace {namespace:?}, only those of its own"
            ));
        }
        // One with the suffix comes first, and then the one without.
        let bare = name.strip_suffix(CA_SUFFIX);
        let names = [Some(name), bare].into_iter().flatten();
        let mut names = names.map(|name| ObjectName::new(own, name));
        let found = names.find_map(|name| Some((self.state.secrets.get(&name)?, name)));
        match found {
            Some((found, name)) => Ok(("Secret", name, &found.spec)),
            None => Err(format!(
                "no Secret {} is among the manifests",
                ObjectName::new(own, bare.unwrap_or(name))
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_istiods() {
        for (name, resource) in [
            ("web", "kubernetes://web"),
            ("kubernetes://web", "kubernetes://web"),
            ("configmap://a/b-cacert", "configmap://a/b-cacert"),
            ("sds://web", "kubernetes://web"),
            ("builtin://", "default"),
            ("builtin://-cacert", "ROOTCA"),
            ("invalid://-cacert", "invalid://"),
        ] {
            assert_eq!(resource_name(name), resource);
        }
    }
}
