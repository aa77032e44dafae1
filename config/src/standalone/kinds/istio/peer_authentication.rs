//! PeerAuthentication: which mutual TLS of the mesh pods take.
//!
//! A waypoint itself takes nothing else, and ztunnel enforces it for pods of the mesh. What turns it off for pods with a
//! sidecar says how a waypoint reaches them: in plain text.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::istio::selector::Selector;
use crate::standalone::kinds::known_fields::{KnownFields, Report};
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, PartialEq)]
pub struct PeerAuthentication {
    /// Labels of the pods that it is for; empty: all of its namespace, of the root namespace's all of the mesh.
    pub selector: BTreeMap<String, String>,
    /// `None`: as the next wider one says.
    pub mode: Option<MutualTls>,
    /// By the pods' own ports; `None`: as the rest of it says.
    pub ports: BTreeMap<u16, Option<MutualTls>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MutualTls {
    /// Plain text alone.
    Disable,
    Permissive,
    Strict,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    selector: Option<Selector>,
    mtls: Wire,
    port_level_mtls: Option<BTreeMap<String, Wire>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    mode: Mode,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Mode {
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

/// What the API knows of it.
pub(crate) const FIELDS: &[KnownFields] = &[
    ("", Report::Always, &["spec", "status"]),
    (
        "spec",
        Report::Always,
        &["mtls", "portLevelMtls", "selector"],
    ),
    ("spec.mtls", Report::Always, &["mode"]),
];

impl PeerAuthentication {
    /// # Errors
    /// What the API server or Istio's admission would refuse.
    pub fn read(manifest: &Manifest) -> Result<Object<PeerAuthentication>, LoadError> {
        let spec: Spec = manifest.part("spec")?;
        let read = spec
            .read()
            .map_err(|(field, reason)| manifest.refused(format!("spec.{field}"), reason))?;
        Ok(manifest.object(read))
    }

    /// Whether it is for all pods of its namespace, or of the mesh.
    pub fn is_wide(&self) -> bool {
        self.selector.is_empty()
    }

    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let mut wanted = self.selector.iter();
        wanted.all(|(name, value)| labels.get(name) == Some(value))
    }

    /// Whether any of it turns mutual TLS off.
    pub fn disables(&self) -> bool {
        let off = |mode: &Option<MutualTls>| *mode == Some(MutualTls::Disable);
        off(&self.mode) || self.ports.values().any(off)
    }
}

impl Spec {
    fn read(self) -> Result<PeerAuthentication, Refusal> {
        if let Some(selector) = &self.selector {
            selector.check()?;
        }
        let selector = self.selector.map(Selector::into_labels).unwrap_or_default();
        let mut ports = BTreeMap::new();
        if let Some(of_ports) = self.port_level_mtls {
            if of_ports.is_empty() {
                return Err(refusal("portLevelMtls", "must have at least one port"));
            }
            if selector.is_empty() {
                return Err(refusal("portLevelMtls", "requires a selector"));
            }
            for (port, wire) in of_ports {
                let number = port.parse().ok().filter(|number| *number > 0);
                let Some(number) = number else {
                    let reason = format!("{port:?} is not between 1 and 65535");
                    return Err(refusal("portLevelMtls", reason));
                };
                ports.insert(number, wire.mode.read());
            }
        }
        Ok(PeerAuthentication {
            selector,
            mode: self.mtls.mode.read(),
            ports,
        })
    }
}

impl Mode {
    fn read(self) -> Option<MutualTls> {
        Some(match self {
            Mode::Unset => return None,
            Mode::Disable => MutualTls::Disable,
            Mode::Permissive => MutualTls::Permissive,
            Mode::Strict => MutualTls::Strict,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(spec: &str) -> Result<PeerAuthentication, LoadError> {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p}}\nspec: {spec}"
        );
        PeerAuthentication::read(&Manifest::of(&text)).map(|object| object.spec)
    }

    #[test]
    fn modes_by_port() {
        let found = read(
            "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}, '81': {}}}",
        )
        .unwrap();
        assert_eq!(found.mode, Some(MutualTls::Strict));
        let ports = [(81, None), (8080, Some(MutualTls::Disable))];
        assert_eq!(found.ports, ports.into());
        assert!(found.disables() && !found.is_wide());
        let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
        assert!(found.selects(&labels("a")) && !found.selects(&labels("b")));
        for wide in ["{}", "{mtls: {mode: UNSET}}", "{selector: {}, mtls: {}}"] {
            let found = read(wide).unwrap();
            assert!(found.is_wide() && found.mode.is_none(), "{wide}");
        }
    }

    #[test]
    fn what_the_api_server_refuses() {
        for (spec, field) in [
            ("{mtls: {mode: OFF}}", "spec.mtls.mode"),
            (
                "{portLevelMtls: {80: {mode: DISABLE}}}",
                "spec.portLevelMtls",
            ),
            (
                "{selector: {matchLabels: {a: b}}, portLevelMtls: {}}",
                "spec.portLevelMtls",
            ),
            (
                "{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {}}}",
                "spec.portLevelMtls",
            ),
            (
                "{selector: {matchLabels: {a: b}}, portLevelMtls: {65536: {}}}",
                "spec.portLevelMtls",
            ),
            (
                "{selector: {matchLabels: {'a*': b}}}",
                "spec.selector.matchLabels",
            ),
        ] {
            let error = read(spec).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{spec}");
        }
    }
}
