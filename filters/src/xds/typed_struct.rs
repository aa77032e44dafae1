//! `TypedStruct`: a message of a type that its sender doesn't know, as JSON; how istiod wraps its own filters.

use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::coverage::well_known::STRUCT;
use crate::xds::proto::{TYPED_STRUCT, TypedStruct};
use crate::xds::rejected::Refusal;
use crate::xds::struct_json::struct_to_json;

const XDS_TYPED_STRUCT: &str = "type.googleapis.com/xds.type.v3.TypedStruct";

/// The filter that takes it refuses keys that it doesn't know.
pub static UDPA: Table = Table {
    name: "udpa.type.v1.TypedStruct",
    fields: &[honoured(1, "type_url"), honoured(2, "value").of(&STRUCT)],
    refused: "",
    required: &[required("type_url", &[1])],
};

/// It has the same two fields.
pub static XDS: Table = Table {
    name: "xds.type.v3.TypedStruct",
    fields: &[honoured(1, "type_url"), honoured(2, "value").of(&STRUCT)],
    refused: "",
    required: &[required("type_url", &[1])],
};

/// The inner type URL and value, if `any` is a `TypedStruct`.
pub fn unwrap(any: &Any) -> Result<Option<(String, serde_json::Value)>, Refusal> {
    let invalid = |error: prost::DecodeError| Refusal::new("typed_config", error.to_string());
    if any.type_url != TYPED_STRUCT && any.type_url != XDS_TYPED_STRUCT {
        return Ok(None);
    }
    let TypedStruct { type_url, value } =
        TypedStruct::decode(any.value.as_slice()).map_err(invalid)?;
    Ok(Some((
        type_url,
        value.as_ref().map(struct_to_json).unwrap_or_default(),
    )))
}

/// Refuses whatever isn't an object with no other keys than `known`; nothing at all is an empty object.
pub fn only(object: &serde_json::Value, known: &[&str]) -> Result<(), Refusal> {
    match object {
        serde_json::Value::Null => Ok(()),
        serde_json::Value::Object(object) => {
            match object.keys().find(|key| !known.contains(&key.as_str())) {
                Some(key) => Err(Refusal::unsupported(key.as_str())),
                None => Ok(()),
            }
        }
        _ => Err(Refusal::new("", "is no object")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_known_keys_of_an_object() {
        assert!(only(&json!({"a": 1}), &["a", "b"]).is_ok());
        assert!(only(&json!(null), &["a"]).is_ok());
        assert!(only(&json!({"c": 1}), &["a"]).is_err());
        assert!(only(&json!("a"), &["a"]).is_err());
        assert!(only(&json!([{"c": 1}]), &["a"]).is_err());
    }
}
