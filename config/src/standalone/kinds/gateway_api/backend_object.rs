//! A reference to a backend.

use serde::Deserialize;

use crate::standalone::kinds::refusal::{Refusal, refusal};

/// A reference to what takes the requests.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendObject {
    #[serde(default)]
    pub group: String,
    #[serde(default = "service_kind")]
    pub kind: String,
    pub name: String,
    pub namespace: Option<String>,
    pub port: Option<u16>,
}

pub(crate) fn service_kind() -> String {
    "Service".to_owned()
}

impl BackendObject {
    pub fn is_service(&self) -> bool {
        self.group.is_empty() && self.kind == "Service"
    }

    /// Any host of the mesh, as istiod has it.
    pub fn is_hostname(&self) -> bool {
        self.group == "networking.istio.io" && self.kind == "Hostname"
    }

    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.is_service() && self.port.is_none_or(|port| port == 0) {
            return Err(refusal("port", "is required for a Service"));
        }
        Ok(())
    }
}
