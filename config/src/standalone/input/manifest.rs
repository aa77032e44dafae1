//! One Kubernetes object before its kind is known: group, version, kind, metadata, and the rest as JSON.
//!
//! Nulls are dropped first, as the API server treats them: a null field is an absent one.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::standalone::input::labels::check_label;
use crate::standalone::input::labels::is_dns_label;
use crate::standalone::input::metadata_fields::unknown_metadata;
use crate::standalone::input::problem::{LoadError, Origin, Problem, Severity};
use crate::standalone::input::strict_value::StrictValue;
use crate::standalone::input::yaml::Document;

/// The parts of `metadata` that are read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    pub name: String,
    pub namespace: String,
    pub generate_name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub deletion_timestamp: Option<String>,
    pub owner_references: Vec<OwnerReference>,
    creation_timestamp: Option<String>,
    /// `creationTimestamp` in seconds, 0 when absent: orders routes and services.
    #[serde(skip)]
    pub created: i64,
}

/// Who controls an object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    pub kind: String,
    pub name: String,
    pub controller: bool,
}

impl ObjectMeta {
    /// Of an object that has nothing but a name.
    pub fn named(name: ObjectName) -> ObjectMeta {
        ObjectMeta {
            name: name.name,
            namespace: name.namespace,
            ..ObjectMeta::default()
        }
    }

    /// The API server's checks and defaults.
    fn complete(&mut self, namespaced: bool) -> Result<(), (String, String)> {
        let refused = |field: &str, reason: &str| Err((field.to_owned(), reason.to_owned()));
        if self.name.is_empty() {
            return refused("name", "is required");
        }
        if !is_object_name(&self.name) {
            return refused("name", "is not a Kubernetes object name");
        }
        for (name, value) in &self.labels {
            check_label(name, value).map_err(|reason| (format!("labels.{name}"), reason))?;
        }
        match (namespaced, self.namespace.as_str()) {
            (false, _) => self.namespace.clear(),
            (true, "") => "default".clone_into(&mut self.namespace),
            (true, namespace) if is_dns_label(namespace) => {}
            (true, namespace) => {
                return refused(
                    "namespace",
                    &format!("{namespace:?} is no name of a namespace"),
                );
            }
        }
        if let Some(stamp) = &self.creation_timestamp {
            self.created = OffsetDateTime::parse(stamp, &Rfc3339)
                .map_err(|error| ("creationTimestamp".to_owned(), error.to_string()))?
                .unix_timestamp();
        }
        Ok(())
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// The value of the first of these labels that is set.
    pub fn first_label(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.label(name))
    }
}

/// A namespace and a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl ObjectName {
    pub fn new(namespace: &str, name: &str) -> ObjectName {
        ObjectName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An object whose kind's own part is not yet decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub origin: Origin,
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub meta: ObjectMeta,
    /// Names in `metadata` that the API doesn't know.
    pub unknown_metadata: Vec<String>,
    pub body: Map<String, Value>,
}

/// An object of a known kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Object<T> {
    pub meta: ObjectMeta,
    pub origin: Origin,
    pub spec: T,
}

impl<T> Object<T> {
    pub fn name(&self) -> ObjectName {
        ObjectName::new(&self.meta.namespace, &self.meta.name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Manifest {
    /// The one in this text, for tests of its kind.
    pub(crate) fn of(text: &str) -> Manifest {
        let documents = crate::standalone::input::yaml::documents("a.yaml".as_ref(), text);
        Manifest::read(documents.unwrap().remove(0), |_, _| true).unwrap()
    }
}

impl Manifest {
    /// Reads what all kinds share. `namespaced` tells the scope of a kind by group and kind.
    pub fn read(
        document: Document,
        namespaced: impl Fn(&str, &str) -> bool,
    ) -> Result<Manifest, LoadError> {
        let Document { origin, mut value } = document;
        drop_nulls(&mut value);
        let Value::Object(mut body) = value else {
            return Err(LoadError::document(
                &origin,
                "a Kubernetes object must be a mapping",
            ));
        };
        let mut text = |field: &str| match body.remove(field) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            found => Err(LoadError {
                field: Some(field.to_owned()),
                ..LoadError::document(
                    &origin,
                    match found {
                        None | Some(Value::String(_)) => "is required".to_owned(),
                        Some(other) => format!("must be a string, found {other}"),
                    },
                )
            }),
        };
        let api_version = text("apiVersion")?;
        let kind = text("kind")?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let metadata = body
            .remove("metadata")
            .unwrap_or_else(|| Value::Object(Map::new()));
        let named = metadata
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or("(no name)");
        let broken = |field: &str, reason: String| LoadError {
            resource: Some(format!("{kind} {named}")),
            field: Some(field.to_owned()),
            ..LoadError::document(&origin, reason)
        };
        let mut meta: ObjectMeta = serde_path_to_error::deserialize(StrictValue(&metadata))
            .map_err(|error| {
                broken(
                    &format!("metadata.{}", error.path()),
                    error.inner().to_string(),
                )
            })?;
        meta.complete(namespaced(group, &kind))
            .map_err(|(field, reason)| broken(&format!("metadata.{field}"), reason))?;
        let (group, version) = (group.to_owned(), version.to_owned());
        Ok(Manifest {
            origin,
            group,
            version,
            kind,
            meta,
            unknown_metadata: unknown_metadata(&metadata),
            body,
        })
    }

    /// `Kind namespace/name`, or `Kind name` for what has no namespace.
    pub fn resource(&self) -> String {
        resource(&self.kind, &self.meta)
    }

    /// The object refused, with the path of the offending field.
    pub fn refused(&self, field: impl Into<String>, reason: impl Into<String>) -> LoadError {
        LoadError {
            resource: Some(self.resource()),
            field: Some(field.into()),
            ..LoadError::document(&self.origin, reason.into())
        }
    }

    /// Refuses whatever stands beside `spec` and `status`, for kinds whose API refuses fields that it doesn't know.
    pub fn has_only_spec_and_status(&self) -> Result<(), LoadError> {
        let known = |field: &&String| matches!(field.as_str(), "spec" | "status");
        match self.body.keys().find(|field| !known(field)) {
            Some(field) => Err(self.refused(field.clone(), "unknown field")),
            None => Ok(()),
        }
    }

    /// The object as a problem of the translation.
    pub fn problem(
        &self,
        severity: Severity,
        field: impl Into<String>,
        reason: impl Into<String>,
    ) -> Problem {
        Problem {
            severity,
            resource: self.resource(),
            origin: self.origin.clone(),
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// Decodes one top-level part, `spec` as a rule; an absent part is an empty one.
    pub fn part<T: DeserializeOwned>(&self, name: &str) -> Result<T, LoadError> {
        let empty = Value::Object(Map::new());
        let value = self.body.get(name).unwrap_or(&empty);
        serde_path_to_error::deserialize(StrictValue(value)).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." {
                name.to_owned()
            } else {
                format!("{name}.{path}")
            };
            self.refused(field, error.inner().to_string())
        })
    }

    /// Decodes the object less its `metadata`, for kinds without a `spec`.
    pub fn whole<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        let value = Value::Object(self.body.clone());
        serde_path_to_error::deserialize(StrictValue(&value))
            .map_err(|error| self.refused(error.path().to_string(), error.inner().to_string()))
    }

    pub fn object<T>(&self, spec: T) -> Object<T> {
        Object {
            meta: self.meta.clone(),
            origin: self.origin.clone(),
            spec,
        }
    }
}

/// `Kind namespace/name`, or `Kind name` for what has no namespace.
pub fn resource(kind: &str, meta: &ObjectMeta) -> String {
    match meta.namespace.as_str() {
        "" => format!("{kind} {}", meta.name),
        namespace => format!("{kind} {namespace}/{}", meta.name),
    }
}

/// RFC 1123 subdomain characters; names of some kinds are narrower.
fn is_object_name(name: &str) -> bool {
    name.len() <= 253
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .bytes()
            .all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b':'))
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::input::yaml::documents;

    fn read(text: &str) -> Result<Manifest, LoadError> {
        Manifest::read(
            documents(Path::new("a.yaml"), text)?.remove(0),
            |_, kind| kind != "Node",
        )
    }

    #[test]
    fn reads_what_all_kinds_share() {
        let found = read("{apiVersion: a.b/v1, kind: K, metadata: {name: it, labels: null, creationTimestamp: '1970-01-01T00:00:09Z'}, spec: null}").unwrap();
        assert_eq!(
            (found.group.as_str(), found.version.as_str()),
            ("a.b", "v1")
        );
        assert_eq!(found.resource(), "K default/it");
        assert_eq!(found.meta.created, 9);
        assert_eq!(
            read("{apiVersion: v1, kind: Node, metadata: {name: it}}")
                .unwrap()
                .resource(),
            "Node it"
        );
    }

    #[test]
    fn a_boolean_is_no_string() {
        let error =
            read("{apiVersion: v1, kind: K, metadata: {name: it, labels: {a: on}}}").unwrap_err();
        assert_eq!(error.resource.as_deref(), Some("K it"));
        assert_eq!(error.field.as_deref(), Some("metadata.labels.a"));
        assert!(error.reason.contains("expected a string"), "{error}");
        let error = read("{apiVersion: v1, kind: K, metadata: {name: y}}").unwrap_err();
        assert_eq!(error.field.as_deref(), Some("metadata.name"));
    }

    #[test]
    fn required_fields() {
        for (text, field) in [
            ("{kind: K, metadata: {name: it}}", "apiVersion"),
            ("{apiVersion: v1, metadata: {name: it}}", "kind"),
            ("{apiVersion: v1, kind: K}", "metadata.name"),
            (
                "{apiVersion: v1, kind: K, metadata: {name: A_b}}",
                "metadata.name",
            ),
            (
                "{apiVersion: v1, kind: K, metadata: {name: a, namespace: a.b}}",
                "metadata.namespace",
            ),
            (
                "{apiVersion: v1, kind: K, metadata: {name: a, labels: {istio.io/use-waypoint: a b}}}",
                "metadata.labels.istio.io/use-waypoint",
            ),
        ] {
            assert_eq!(
                read(text).unwrap_err().field.as_deref(),
                Some(field),
                "{text}"
            );
        }
    }
}
