//! Deserializes JSON values as the API server reads them: a struct is a mapping, never a sequence.
//!
//! Serde's derived structs also accept a sequence of their fields, so that `rules: [[]]` would be a rule
//! without conditions. Everything else is serde_json's own behaviour; numbers are not read from strings.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// A value to deserialize from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StrictValue<'a>(pub &'a Value);

impl<'a> IntoDeserializer<'a, Error> for StrictValue<'a> {
    type Deserializer = StrictValue<'a>;

    fn into_deserializer(self) -> StrictValue<'a> {
        self
    }
}

impl<'a> Deserializer<'a> for StrictValue<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                let mut sequence = SeqDeserializer::new(items.iter().map(StrictValue));
                let value = visitor.visit_seq(&mut sequence)?;
                sequence.end()?;
                Ok(value)
            }
            Value::Object(fields) => {
                let entries = fields
                    .iter()
                    .map(|(name, value)| (name.as_str(), StrictValue(value)));
                let mut map = MapDeserializer::new(entries);
                let value = visitor.visit_map(&mut map)?;
                map.end()?;
                Ok(value)
            }
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(_) => self.deserialize_any(visitor),
            Value::Array(_) => Err(Error::invalid_type(Unexpected::Seq, &"a mapping")),
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// The enums of the API are strings.
    fn deserialize_enum<V: Visitor<'a>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(_) => self.0.deserialize_enum(name, variants, visitor),
            _ => Err(Error::custom(format!(
                "expected one of {}",
                variants.join(", ")
            ))),
        }
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Rule {
        names: Vec<String>,
        inner: Option<Box<Rule>>,
        port: Option<u16>,
    }

    fn read(value: Value) -> Result<Rule, String> {
        serde_path_to_error::deserialize(StrictValue(&value)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_struct_is_a_mapping() {
        let inner = Some(Box::new(Rule {
            names: vec!["a".to_owned()],
            ..Rule::default()
        }));
        assert_eq!(
            read(json!({"inner": {"names": ["a"]}, "port": 1})),
            Ok(Rule {
                inner,
                port: Some(1),
                ..Rule::default()
            })
        );
        for (value, path) in [
            (json!([]), "invalid type: sequence"),
            (json!({"inner": []}), "inner: invalid type: sequence"),
            (
                json!({"inner": {"names": [true]}}),
                "inner.names[0]: invalid type: boolean",
            ),
            (json!({"port": "1"}), "port: invalid type: string"),
            (json!({"port": 70000}), "port: invalid value"),
            (json!({"inner": {"name": 1}}), "inner.name: unknown field"),
        ] {
            let error = read(value).err().unwrap_or_default();
            assert!(error.starts_with(path), "{error}");
        }
    }
}
