//! Protobuf messages as JSON, in Envoy's admin form: proto field names, and messages inside an `Any` unpacked.
//!
//! Nothing fails here: an `Any` of a type that isn't described, or whose bytes don't fit it, is printed as
//! its bytes. Fields that Envoy's API marks as sensitive say `[redacted]`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage,
    SerializeOptions, Value,
};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::dump::descriptors;
use crate::dump::field_mask::Mask;

const ANY: &str = "google.protobuf.Any";
const BYTES: &str = "google.protobuf.BytesValue";
const REDACTED: &str = "[redacted]";
/// An `Any` inside more messages than this is printed as bytes: the stack has an end.
const MAX_DEPTH: usize = 64;

/// What is needed to print: the descriptors, for as long as it takes.
pub struct Printer {
    pool: DescriptorPool,
    sensitive: HashSet<&'static str>,
}

impl Printer {
    /// `None`: see [`descriptors::pool`].
    pub fn new() -> Option<Printer> {
        Some(Printer {
            pool: descriptors::pool()?,
            sensitive: descriptors::sensitive().collect(),
        })
    }

    /// The message `name` of these bytes. `None`: it isn't described, or the bytes don't fit.
    pub fn message(&self, name: &str, body: Bytes) -> Option<DynamicMessage> {
        DynamicMessage::decode(self.pool.get_message_by_name(name)?, body).ok()
    }

    /// An `Any` that holds these bytes.
    pub fn any(&self, type_url: &str, body: Bytes) -> Option<DynamicMessage> {
        let mut any = DynamicMessage::new(self.pool.get_message_by_name(ANY)?);
        any.set_field_by_number(1, Value::String(type_url.to_owned()));
        any.set_field_by_number(2, Value::Bytes(body));
        Some(any)
    }

    /// The message, to be serialized.
    pub fn json<'a>(&'a self, message: &'a DynamicMessage, mask: &'a Mask) -> impl Serialize + 'a {
        let place = self.place(mask);
        Json { message, place }
    }

    /// The message's fields, as entries of a map that has others as well.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn entries<M: SerializeMap>(
        &self,
        message: &DynamicMessage,
        mask: &Mask,
        map: &mut M,
    ) -> Result<(), M::Error> {
        self.place(mask).entries(message, map)
    }

    fn place<'a>(&'a self, mask: &'a Mask) -> Place<'a> {
        Place {
            printer: self,
            mask,
            depth: 0,
            redacted: false,
        }
    }
}

/// Where in the whole something stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    printer: &'a Printer,
    mask: &'a Mask,
    /// In how many messages.
    depth: usize,
    redacted: bool,
}

impl<'a> Place<'a> {
    /// `None`: the field is masked out.
    fn field(self, field: &FieldDescriptor) -> Option<Place<'a>> {
        let sensitive = self.printer.sensitive.contains(field.full_name());
        Some(Place {
            mask: self.mask.of(field.name())?,
            redacted: self.redacted || sensitive,
            ..self
        })
    }

    fn entries<M: SerializeMap>(
        self,
        message: &DynamicMessage,
        map: &mut M,
    ) -> Result<(), M::Error> {
        for (field, value) in message.fields() {
            if let Some(place) = self.field(&field) {
                let kind = &field.kind();
                map.serialize_entry(field.name(), &Element { value, kind, place })?;
            }
        }
        Ok(())
    }

    /// As the base64 text that the JSON form has for bytes.
    fn bytes<S: Serializer>(self, bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = match self.redacted {
            true => Bytes::from_static(REDACTED.as_bytes()),
            false => bytes.clone(),
        };
        let Some(descriptor) = self.printer.pool.get_message_by_name(BYTES) else {
            return serializer.serialize_none();
        };
        let mut value = DynamicMessage::new(descriptor);
        value.set_field_by_number(1, Value::Bytes(bytes));
        value.serialize(serializer)
    }
}

struct Json<'a> {
    message: &'a DynamicMessage,
    place: Place<'a>,
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let descriptor = self.message.descriptor();
        if descriptor.full_name() == ANY {
            return self.any(serializer);
        }
        if has_own_form(descriptor.full_name()) {
            if self.place.redacted {
                return serializer.serialize_str(REDACTED);
            }
            return match own_form(self.message) {
                Some(value) => value.serialize(serializer),
                // Out of the range that the JSON form has, as a duration of a million years.
                None => serializer.serialize_none(),
            };
        }
        let mut map = serializer.serialize_map(None)?;
        self.place.entries(self.message, &mut map)?;
        map.end()
    }
}

impl Json<'_> {
    fn any<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let type_url = self.message.get_field_by_number(1);
        let type_url = type_url.as_ref().and_then(|v| v.as_str()).unwrap_or("");
        let body = match self.message.get_field_by_number(2).map(Cow::into_owned) {
            Some(Value::Bytes(body)) => body,
            _ => Bytes::new(),
        };
        let place = Place {
            depth: self.place.depth + 1,
            ..self.place
        };
        let name = type_url.rsplit('/').next().unwrap_or_default();
        let message = if place.depth > MAX_DEPTH {
            None
        } else {
            place.printer.message(name, body.clone())
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("@type", type_url)?;
        match message {
            Some(message) if name == ANY || has_own_form(name) => {
                let message = &message;
                map.serialize_entry("value", &Json { message, place })?;
            }
            Some(message) => place.entries(&message, &mut map)?,
            None => {
                let (value, kind) = (&Value::Bytes(body), &Kind::Bytes);
                map.serialize_entry("value", &Element { value, kind, place })?;
            }
        }
        map.end()
    }
}

/// A field's value, or one element of it.
struct Element<'a> {
    value: &'a Value,
    kind: &'a Kind,
    place: Place<'a>,
}

impl Serialize for Element<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Element { kind, place, .. } = *self;
        match self.value {
            Value::Message(message) => {
                let depth = place.depth + 1;
                let place = Place { depth, ..place };
                Json { message, place }.serialize(serializer)
            }
            Value::List(values) => {
                let mut list = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    list.serialize_element(&Element { value, kind, place })?;
                }
                list.end()
            }
            Value::Map(values) => {
                let kind = &match kind {
                    Kind::Message(entry) if entry.is_map_entry() => {
                        entry.map_entry_value_field().kind()
                    }
                    other => other.clone(),
                };
                let mut map = serializer.serialize_map(Some(values.len()))?;
                // The order of a hash map changes from dump to dump.
                let sorted: BTreeMap<String, &Value> =
                    values.iter().map(|(k, v)| (key(k), v)).collect();
                for (key, value) in sorted {
                    map.serialize_entry(&key, &Element { value, kind, place })?;
                }
                map.end()
            }
            Value::Bytes(bytes) => place.bytes(bytes, serializer),
            Value::String(_) if place.redacted => serializer.serialize_str(REDACTED),
            Value::String(text) => serializer.serialize_str(text),
            _ if place.redacted => serializer.serialize_none(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I32(value) => serializer.serialize_i32(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            // A JSON number is a double to many readers: 64 bits go as text.
            Value::I64(value) => serializer.collect_str(value),
            Value::U64(value) => serializer.collect_str(value),
            Value::F32(value) if value.is_finite() => serializer.serialize_f32(*value),
            Value::F64(value) if value.is_finite() => serializer.serialize_f64(*value),
            Value::F32(value) => serializer.serialize_str(not_finite(f64::from(*value))),
            Value::F64(value) => serializer.serialize_str(not_finite(*value)),
            Value::EnumNumber(number) => {
                let name = match kind {
                    Kind::Enum(kind) => kind.get_value(*number),
                    _ => None,
                };
                match name {
                    Some(value) => serializer.serialize_str(value.name()),
                    None => serializer.serialize_i32(*number),
                }
            }
        }
    }
}

fn not_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

fn key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// Messages whose JSON isn't an object of their fields.
fn has_own_form(name: &str) -> bool {
    matches!(
        name.strip_prefix("google.protobuf."),
        Some(
            "Duration"
                | "Timestamp"
                | "FieldMask"
                | "Struct"
                | "Value"
                | "ListValue"
                | "BoolValue"
                | "Int32Value"
                | "Int64Value"
                | "UInt32Value"
                | "UInt64Value"
                | "FloatValue"
                | "DoubleValue"
                | "StringValue"
                | "BytesValue"
        )
    )
}

fn own_form(message: &DynamicMessage) -> Option<serde_json::Value> {
    message
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
        CommonTlsContext, DownstreamTlsContext, TlsCertificate,
    };
    use envoy_types::pb::google::protobuf::Any;
    use prost::{Message, Name};
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::sources::recorded;

    fn printed(printer: &Printer, name: &str, body: Vec<u8>, mask: &str) -> Json {
        let message = printer.message(name, body.into()).unwrap();
        serde_json::to_value(printer.json(&message, &Mask::parse(mask))).unwrap()
    }

    fn any_of<M: Message + Name>(message: &M) -> Any {
        Any {
            type_url: format!("type.googleapis.com/{}", M::full_name()),
            value: message.encode_to_vec(),
        }
    }

    /// Against the library's own form, which has no masks and fails at the unknown.
    #[test]
    fn recorded_resources_print_as_the_library_prints_them() {
        let printer = Printer::new().unwrap();
        let options = SerializeOptions::new().use_proto_field_name(true);
        for entry in
            std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")).unwrap()
        {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "pb") {
                continue;
            }
            for resource in recorded::read(&std::fs::read(&path).unwrap()).unwrap() {
                let name = resource.kind.type_url().rsplit('/').next().unwrap();
                let message = printer.message(name, resource.body).unwrap();
                let ours = serde_json::to_value(printer.json(&message, &Mask::ALL)).unwrap();
                let library = message
                    .serialize_with_options(serde_json::value::Serializer, &options)
                    .unwrap();
                assert_eq!(ours, library, "{path:?} {}", resource.name);
            }
        }
    }

    #[test]
    fn what_is_not_described_is_its_bytes() {
        let printer = Printer::new().unwrap();
        for (type_url, value) in [
            ("type.googleapis.com/no.such.Type", vec![1, 2, 3]),
            // Field 1, length-delimited, and then nothing.
            (
                "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                vec![10],
            ),
        ] {
            let any = Any {
                type_url: type_url.to_owned(),
                value: value.clone(),
            };
            let json = printed(&printer, ANY, any.encode_to_vec(), "");
            let base64 = if value.len() == 3 { "AQID" } else { "Cg==" };
            assert_eq!(json, json!({"@type": type_url, "value": base64}));
        }
    }

    #[test]
    fn nesting_has_an_end() {
        let printer = Printer::new().unwrap();
        let mut any = Any::default();
        for _ in 0..10_000 {
            any = Any {
                type_url: format!("type.googleapis.com/{ANY}"),
                value: any.encode_to_vec(),
            };
        }
        let mut json = &printed(&printer, ANY, any.encode_to_vec(), "");
        let mut depth = 0;
        while json.is_object() {
            (json, depth) = (&json["value"], depth + 1);
        }
        assert_eq!((depth, json.is_string()), (MAX_DEPTH + 1, true));
    }

    #[test]
    fn keys_are_redacted_wherever_they_stand() {
        let printer = Printer::new().unwrap();
        let source = |specifier| {
            Some(DataSource {
                specifier: Some(specifier),
                ..DataSource::default()
            })
        };
        let context = DownstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                tls_certificates: vec![TlsCertificate {
                    certificate_chain: source(Specifier::InlineString("public".into())),
                    private_key: source(Specifier::InlineBytes(b"secret".to_vec())),
                    password: source(Specifier::InlineString("secret".into())),
                    ..TlsCertificate::default()
                }],
                ..CommonTlsContext::default()
            }),
            ..DownstreamTlsContext::default()
        };
        let any = any_of(&context);
        let json = printed(&printer, ANY, any.encode_to_vec(), "");
        assert_eq!(
            json["common_tls_context"]["tls_certificates"][0],
            json!({
                "certificate_chain": {"inline_string": "public"},
                "private_key": {"inline_bytes": "W3JlZGFjdGVkXQ=="},
                "password": {"inline_string": "[redacted]"},
            })
        );
    }

    #[test]
    fn masks_lead_through_lists_and_any() {
        let printer = Printer::new().unwrap();
        let context = CommonTlsContext {
            alpn_protocols: vec!["h2".into()],
            tls_certificates: vec![TlsCertificate::default(), TlsCertificate::default()],
            ..CommonTlsContext::default()
        };
        let any = any_of(&context);
        let json = printed(
            &printer,
            ANY,
            any.encode_to_vec(),
            "tls_certificates.password",
        );
        let type_url = any.type_url.as_str();
        assert_eq!(
            json,
            json!({"@type": type_url, "tls_certificates": [{}, {}]})
        );
    }
}
