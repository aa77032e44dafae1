//! JSON text whose mappings name no field twice: of two values one would be lost in silence.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// A value that was read so.
pub(crate) struct Json(pub Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(Json(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Json(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut fields = serde_json::Map::new();
        while let Some((name, Json(value))) = entries.next_entry::<String, Json>()? {
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format!("{name:?} is given twice")));
            }
            fields.insert(name, value);
        }
        Ok(Json(fields.into()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_is_given_twice_is_refused() {
        let read = |text: &str| {
            let read: Result<Json, _> = serde_json::from_str(text);
            read.map(|Json(value)| value)
                .map_err(|error| error.to_string())
        };
        let text = r#"{"a": [1, -1, 0.5, true, null, "x"], "b": {"a": {}}}"#;
        assert_eq!(
            read(text),
            Ok(json!({"a": [1, -1, 0.5, true, null, "x"], "b": {"a": {}}}))
        );
        let error = read(r#"{"a": {"b": 1, "b": 2}}"#).err().unwrap_or_default();
        assert!(error.contains("\"b\" is given twice"), "{error}");
    }
}
