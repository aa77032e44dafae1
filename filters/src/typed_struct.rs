//! `TypedStruct`: a message of a type that its sender doesn't know, as JSON; how istiod wraps its own filters.

use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::dynamic_metadata::struct_to_json;
use crate::proto::{TYPED_STRUCT, TypedStruct};
use crate::rejected::Refusal;

const XDS_TYPED_STRUCT: &str = "type.googleapis.com/xds.type.v3.TypedStruct";

/// The inner type URL and value, if `any` is a `TypedStruct`.
pub fn unwrap(any: &Any) -> Result<Option<(String, serde_json::Value)>, Refusal> {
    let invalid = |error: prost::DecodeError| Refusal::new("typed_config", error.to_string());
    if any.type_url != TYPED_STRUCT && any.type_url != XDS_TYPED_STRUCT {
        return Ok(None);
    }
    // Both have the same two fields.
    let TypedStruct { type_url, value } =
        TypedStruct::decode(any.value.as_slice()).map_err(invalid)?;
    Ok(Some((
        type_url,
        value.as_ref().map(struct_to_json).unwrap_or_default(),
    )))
}

/// Refuses every key of `object` that isn't in `known`.
pub fn only(object: &serde_json::Value, known: &[&str]) -> Result<(), Refusal> {
    match object
        .as_object()
        .and_then(|o| o.keys().find(|k| !known.contains(&k.as_str())))
    {
        Some(key) => Err(Refusal::unsupported(key.as_str())),
        None => Ok(()),
    }
}
