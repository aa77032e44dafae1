//! Metadata: a namespace (a filter's name) to a structured value, on routes, clusters, endpoints and streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Metadata as MetadataProto;

use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::well_known::STRUCT;
use crate::xds::struct_json::struct_to_json;

/// `filter_metadata`: namespace to a JSON object. Cheap to clone, and empty without an allocation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Option<Arc<BTreeMap<String, serde_json::Value>>>);

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
                .map(|(namespace, value)| (namespace.clone(), struct_to_json(value)))
                .collect(),
        )))
    }

    /// The value at `path` inside `namespace`.
    pub fn get<'a>(
        &'a self,
        namespace: &str,
        path: &[impl AsRef<str>],
    ) -> Option<&'a serde_json::Value> {
        let mut value = self.0.as_ref()?.get(namespace)?;
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
            .or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()));
        if let serde_json::Value::Object(object) = entry {
            object.insert(key.to_owned(), value);
        }
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
}
