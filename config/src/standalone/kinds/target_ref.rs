//! `targetRefs` of policies: what a security object is attached to.
//!
//! Only objects that a waypoint may be told about: Gateway, GatewayClass, Service, ServiceEntry. A policy
//! with a selector, or with neither, is ztunnel's and sidecars' business, not a waypoint's.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::standalone::input::manifest::{Manifest, ObjectName};
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema::is_group;
use crate::standalone::input::schema::is_kind;
use crate::standalone::input::schema::{self, Row, Rule};
use crate::standalone::input::strict_value::StrictValue;

/// `targetRef` as it is written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TargetRef {
    pub group: String,
    pub kind: String,
    pub name: String,
    pub namespace: Option<String>,
}

/// What is targeted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Gateway(ObjectName),
    GatewayClass(String),
    Service(ObjectName),
    ServiceEntry(ObjectName),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Gateway(name) => write!(f, "Gateway {name}"),
            Target::GatewayClass(name) => write!(f, "GatewayClass {name}"),
            Target::Service(name) => write!(f, "Service {name}"),
            Target::ServiceEntry(name) => write!(f, "ServiceEntry {name}"),
        }
    }
}

impl TargetRef {
    /// The target of a reference from an object in `namespace`; an error says why it is none.
    pub fn target(&self, namespace: &str) -> Result<Target, String> {
        if self.name.is_empty() {
            return Err("name is required".to_owned());
        }
        // Not even its own may be written.
        if self
            .namespace
            .as_deref()
            .is_some_and(|written| !written.is_empty())
        {
            return Err("a reference may not name a namespace: it is the object's own".to_owned());
        }
        let name = ObjectName::new(namespace, &self.name);
        match (self.group.as_str(), self.kind.as_str()) {
            ("gateway.networking.k8s.io", "Gateway") => Ok(Target::Gateway(name)),
            ("gateway.networking.k8s.io", "GatewayClass") => Ok(Target::GatewayClass(name.name)),
            ("" | "core", "Service") => Ok(Target::Service(name)),
            ("networking.istio.io", "ServiceEntry") => Ok(Target::ServiceEntry(name)),
            (group, kind) => Err(format!("unknown target {kind:?} of group {group:?}")),
        }
    }
}

/// What the CRDs of all kinds with targets say of them.
const SCHEMA: &[Row] = &[
    ("targetRefs", Rule::Items(0, 16)),
    ("targetRefs[].group", Rule::Form(is_group, "group")),
    ("targetRefs[].kind", Rule::Form(is_kind, "kind")),
    ("targetRefs[].name", Rule::Length(1, 253)),
    ("targetRef.group", Rule::Form(is_group, "group")),
    ("targetRef.kind", Rule::Form(is_kind, "kind")),
    ("targetRef.name", Rule::Length(1, 253)),
];

/// Checks the targets of an object, and that it says in one way only what it applies to: an empty list is one, too.
pub fn check(manifest: &Manifest) -> Result<(), LoadError> {
    let given = |name: &&&str| {
        let spec = manifest.body.get("spec");
        spec.is_some_and(|spec| spec.get(**name).is_some())
    };
    let ways = ["targetRefs", "targetRef", "selector", "workloadSelector"];
    let mut ways = ways.iter().filter(given);
    if let (Some(first), Some(second)) = (ways.next(), ways.next()) {
        let reason = format!("only one of {first} and {second} may be given");
        return Err(manifest.refused(format!("spec.{first}"), reason));
    }
    schema::check(manifest, "spec", SCHEMA)
}

/// Targets of an object whose kind or body isn't understood. `Ok` and empty means that it isn't attached
/// to any waypoint; an error that its target can't be told.
pub fn of_unknown(manifest: &Manifest) -> Result<Vec<Target>, (String, String)> {
    let spec = match manifest.body.get("spec") {
        None => return Ok(Vec::new()),
        Some(Value::Object(spec)) => spec,
        Some(_) => return Err(("spec".to_owned(), "must be a mapping".to_owned())),
    };
    let mut written = Vec::new();
    match spec.get("targetRefs") {
        None => {}
        Some(Value::Array(items)) => {
            written.extend(
                items
                    .iter()
                    .enumerate()
                    .map(|(n, item)| (format!("spec.targetRefs[{n}]"), item)),
            );
        }
        Some(_) => {
            return Err((
                "spec.targetRefs".to_owned(),
                "must be a sequence".to_owned(),
            ));
        }
    }
    written.extend(
        spec.get("targetRef")
            .map(|item| ("spec.targetRef".to_owned(), item)),
    );
    written
        .into_iter()
        .map(|(field, item)| {
            let target = TargetRef::deserialize(StrictValue(item));
            target
                .map_err(|error| error.to_string())
                .and_then(|target| target.target(&manifest.meta.namespace))
                .map_err(|reason| (field, reason))
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;

    fn targets(spec: &str) -> Result<Vec<Target>, (String, String)> {
        let text = format!(
            "apiVersion: a/v1\nkind: K\nmetadata: {{name: it, namespace: s}}\nspec: {spec}"
        );
        of_unknown(&Manifest::of(&text))
    }

    #[test]
    fn targets_are_told_or_refused() {
        let own = ObjectName::new("s", "w");
        assert_eq!(
            targets(
                "{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: w}, {kind: Service, group: '', name: w}], more: 1}"
            ),
            Ok(vec![Target::Gateway(own.clone()), Target::Service(own)])
        );
        assert_eq!(targets("{selector: {matchLabels: {a: b}}}"), Ok(Vec::new()));
        for spec in [
            "{targetRefs: {}}",
            "{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io}]}",
            "{targetRefs: [{kind: Pod, group: '', name: w}]}",
            "{targetRef: {kind: Service, name: w, namespace: other}}",
            "{targetRef: {kind: Service, name: w, namespace: s}}",
            "{targetRef: {kind: Service, name: w, port: 1}}",
            "[]",
        ] {
            assert!(targets(spec).is_err(), "{spec}");
        }
    }
}
