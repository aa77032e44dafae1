//! Metadata: a namespace (a filter's name) to a structured value, on routes, clusters, endpoints and streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Metadata as MetadataProto;

use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::well_known::STRUCT;
use crate::xds::struct_json::struct_to_json;

/// `filter_metadata`: namespace to a JSON object. Cheap to clone, and empty without an allocation; objects that are put in as
/// a whole are shared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Option<Arc<BTreeMap<String, Arc<serde_json::Value>>>>);

pub static METADATA: Table = Table {
    name: "envoy.config.core.v3.Metadata",
    fields: &[honoured(1, "filter_metadata").map().of(&STRUCT)],
    refused: "2 typed_filter_metadata",
    required: &[],
};

impl Metadata {
    pub fn from_proto(proto: Option<&MetadataProto>) -> Metadata {
        let Some(proto) = proto.filter(|m| !m.filter_metadata.is_empty()) else {
            return Metadata::default();
        };
        Metadata(Some(Arc::new(
            proto
                .filter_metadata
                .iter()
                .map(|(namespace, value)| (namespace.clone(), Arc::new(struct_to_json(value))))
                .collect(),
        )))
    }

    /// The value at `path` inside `namespace`.
    pub fn get<'a>(
        &'a self,
        namespace: &str,
        path: &[impl AsRef<str>],
    ) -> Option<&'a serde_json::Value> {
        let mut value = &**self.0.as_ref()?.get(namespace)?;
        for key in path {
            value = value.get(key.as_ref())?;
        }
        Some(value)
    }

    /// Sets one key of a namespace.
    pub fn set(&mut self, namespace: &str, key: &str, value: serde_json::Value) {
        let map = Arc::make_mut(self.0.get_or_insert_default());
        let entry = map
            .entry(namespace.to_owned())
            .or_insert_with(|| Arc::new(serde_json::Value::Object(serde_json::Map::new())));
        if let serde_json::Value::Object(object) = Arc::make_mut(entry) {
            object.insert(key.to_owned(), value);
        }
    }

    /// Sets all keys that `object` has in a namespace. It isn't copied where it is the first there.
    pub fn merge(&mut self, namespace: &str, object: &Arc<serde_json::Value>) {
        let map = Arc::make_mut(self.0.get_or_insert_default());
        let Some(entry) = map.get_mut(namespace) else {
            map.insert(namespace.to_owned(), object.clone());
            return;
        };
        let (serde_json::Value::Object(into), serde_json::Value::Object(from)) =
            (Arc::make_mut(entry), &**object)
        else {
            return;
        };
        into.extend(from.iter().map(|(key, value)| (key.clone(), value.clone())));
    }

    /// By namespace.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &serde_json::Value)> {
        let all = self.0.iter().flat_map(|map| map.iter());
        all.map(|(namespace, value)| (namespace.as_str(), &**value))
    }

    /// How many namespaces there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |map| map.len())
    }

    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|map| map.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_into_a_namespace() {
        let mut metadata = Metadata::default();
        assert!(metadata.is_empty());
        metadata.set("istio", "subset", serde_json::json!({"name": "v1"}));
        assert_eq!(
            metadata.get("istio", &["subset", "name"]),
            Some(&serde_json::json!("v1"))
        );
        assert_eq!(metadata.get("istio", &["subset", "other"]), None);
        assert_eq!(metadata.get("other", &["subset"]), None);
    }

    #[test]
    fn a_whole_object_is_shared_until_something_joins_it() {
        let claims =
            Arc::new(serde_json::json!({"payload": {"iss": "me", "list": [1, {"a": "b"}]}}));
        let mut metadata = Metadata::default();
        metadata.merge("jwt", &claims);
        assert_eq!(Arc::strong_count(&claims), 2);
        let path = ["payload", "iss"];
        assert_eq!(metadata.get("jwt", &path), Some(&"me".into()));
        metadata.set("jwt", "other", true.into());
        metadata.merge("jwt", &Arc::new(serde_json::json!({"payload": 7})));
        assert_eq!(metadata.get("jwt", &["payload"]), Some(&7.into()));
        assert_eq!(metadata.get("jwt", &["other"]), Some(&true.into()));
        assert_eq!(claims["payload"]["iss"], "me");
    }
}
