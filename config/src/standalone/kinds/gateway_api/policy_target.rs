//! What a policy about backends is attached to: a service of its own namespace, or one named port of it.

use serde::Deserialize;

use crate::standalone::input::schema::{Row, Rule, is_group, is_kind, is_subdomain};

/// The annotation by which a policy asks not to be looked at.
const IGNORED: &str = "istio.io/ignore-policy-attachment";

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTarget {
    pub group: String,
    pub kind: String,
    pub name: String,
    /// The name of a port.
    #[serde(default)]
    pub section_name: Option<String>,
}

/// What such a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    Service,
    ServiceEntry,
}

/// The fields of targets, as the CRDs have them.
pub(super) const TARGETS: &[Row] = &[
    ("targetRefs", Rule::Items(1, 16)),
    ("targetRefs[]", Rule::Has(&["group", "kind", "name"])),
    ("targetRefs[].group", Rule::Form(is_group, "group")),
    ("targetRefs[].kind", Rule::Form(is_kind, "kind")),
    ("targetRefs[].name", Rule::Length(1, 253)),
    (
        "targetRefs[].sectionName",
        Rule::Form(is_subdomain, "name of a section"),
    ),
];

impl PolicyTarget {
    /// `None`: a policy about backends says nothing to it.
    pub fn backend(&self) -> Option<BackendKind> {
        match (self.group.as_str(), self.kind.as_str()) {
            ("" | "core", "Service") => Some(BackendKind::Service),
            ("networking.istio.io", "ServiceEntry") => Some(BackendKind::ServiceEntry),
            _ => None,
        }
    }

    /// `None` where the whole service is meant.
    pub fn section(&self) -> Option<&str> {
        self.section_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether both name the same service.
    pub fn is_of_same(&self, other: &PolicyTarget) -> bool {
        (&self.group, &self.kind, &self.name) == (&other.group, &other.kind, &other.name)
    }
}

/// Whether a policy asks not to be looked at.
pub(crate) fn is_ignored(meta: &crate::standalone::input::manifest::ObjectMeta) -> bool {
    let value = meta.annotation(IGNORED);
    value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
}
