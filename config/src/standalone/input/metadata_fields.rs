//! The fields of `metadata` that the API knows.

use serde_json::{Map, Value};

pub(crate) const METADATA: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Names of `metadata` that the API doesn't know.
pub(crate) fn unknown_metadata(metadata: &Value) -> Vec<String> {
    let fields = metadata.as_object().into_iter().flat_map(Map::keys);
    let unknown = fields.filter(|name| !METADATA.contains(&name.as_str()));
    unknown.cloned().collect()
}
