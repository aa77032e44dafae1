//! JSON objects of formats, as logs have them: a template whose texts are formats, written as it is evaluated.
//!
//! Keys and constants are JSON before any stream is; a value is written where it stands, and put between quotes there. Keys
//! come in sorted order. A value without bytes that JSON or UTF-8 minds is not copied.

use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use serde_json::Value as JsonValue;

use crate::format::json_text;
use crate::format::{Complain, Format, FormatContext};
use crate::stream::stream_info::Capture;
use crate::xds::rejected::Refusal;

/// A JSON template.
#[derive(Clone, Debug)]
pub enum Json {
    Format(Format),
    /// As JSON.
    Constant(Box<str>),
    Null,
    Object(Box<[Field]>),
    List(Box<[Json]>),
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct Field {
    key: Box<str>,
    /// The key as JSON, with its colon.
    named: Box<str>,
    value: Json,
}

/// A field that stands besides those of the template, if that has none of this name with a value.
pub(super) type Extra<'a> = (&'static str, &'a str);

impl Json {
    pub(super) fn from_struct(
        object: &Struct,
        omit_empty: bool,
        complain: Complain<'_>,
    ) -> Result<Json, Refusal> {
        let mut fields = object
            .fields
            .iter()
            .map(|(key, value)| {
                let mut of_field = |refusal: Refusal| complain(refusal.within(key));
                Ok(Field {
                    key: key.as_str().into(),
                    named: format!("{}:", JsonValue::from(key.as_str())).into(),
                    value: Json::from_value(value, omit_empty, &mut of_field)?,
                })
            })
            .collect::<Result<Vec<Field>, Refusal>>()?;
        fields.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Json::Object(fields.into()))
    }

    fn from_value(
        value: &Value,
        omit_empty: bool,
        complain: Complain<'_>,
    ) -> Result<Json, Refusal> {
        let constant = |value: JsonValue| match value {
            JsonValue::Null => Json::Null,
            value => Json::Constant(value.to_string().into()),
        };
        Ok(match &value.kind {
            Some(Kind::StringValue(text)) => {
                Json::Format(Format::parse_with(text, complain)?.omitting_empty(omit_empty))
            }
            Some(Kind::StructValue(object)) => Json::from_struct(object, omit_empty, complain)?,
            Some(Kind::ListValue(list)) => Json::List(
                list.values
                    .iter()
                    .map(|value| Json::from_value(value, omit_empty, complain))
                    .collect::<Result<_, _>>()?,
            ),
            Some(Kind::BoolValue(b)) => constant((*b).into()),
            Some(Kind::NumberValue(n)) => constant((*n).into()),
            Some(Kind::NullValue(_)) | None => Json::Null,
        })
    }

    pub(super) fn capture(&self) -> Capture {
        let mut capture = Capture::default();
        match self {
            Json::Format(format) => capture.merge(&format.capture()),
            Json::Constant(_) | Json::Null => {}
            Json::Object(fields) => {
                for field in fields {
                    capture.merge(&field.value.capture());
                }
            }
            Json::List(list) => list.iter().for_each(|v| capture.merge(&v.capture())),
        }
        capture
    }

    /// Appends the value; `false`: it has none, and nothing is written. `extras` are in the order of their keys, for the
    /// outermost object.
    pub(super) fn write(
        &self,
        context: &FormatContext<'_>,
        omit_empty: bool,
        extras: &[Extra<'_>],
        out: &mut Vec<u8>,
    ) -> bool {
        match self {
            Json::Null => return false,
            Json::Constant(json) => out.extend_from_slice(json.as_bytes()),
            Json::Format(format) => return format.write_json(context, out),
            Json::Object(fields) => object(fields, context, omit_empty, extras, out),
            Json::List(list) => {
                out.push(b'[');
                for (at, value) in list.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    if !value.write(context, omit_empty, &[], out) {
                        out.extend_from_slice(b"null");
                    }
                }
                out.push(b']');
            }
        }
        true
    }
}

fn object(
    fields: &[Field],
    context: &FormatContext<'_>,
    omit_empty: bool,
    extras: &[Extra<'_>],
    out: &mut Vec<u8>,
) {
    let mut extras = extras.iter().peekable();
    let start = out.len();
    out.push(b'{');
    for field in fields {
        while let Some((key, text)) = extras.next_if(|(key, _)| *key < &*field.key) {
            extra(key, text, start, out);
        }
        let before = out.len();
        begin(start, out);
        out.extend_from_slice(field.named.as_bytes());
        if !field.value.write(context, omit_empty, &[], out) {
            if omit_empty {
                out.truncate(before);
                continue;
            }
            out.extend_from_slice(b"null");
        }
        extras.next_if(|(key, _)| *key == &*field.key);
    }
    for (key, text) in extras {
        extra(key, text, start, out);
    }
    out.push(b'}');
}

/// A comma, unless this is the first field of the object that begins at `start`.
fn begin(start: usize, out: &mut Vec<u8>) {
    if out.len() > start + 1 {
        out.push(b',');
    }
}

fn extra(key: &str, text: &str, start: usize, out: &mut Vec<u8>) {
    begin(start, out);
    json_text::append(key.as_bytes(), out);
    out.push(b':');
    json_text::append(text.as_bytes(), out);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Instant, SystemTime};

    use serde_json::json;

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::stream_info::{Protocol, StreamInfo, StreamState};
    use crate::xds::struct_json::object_to_struct;

    fn line(template: &JsonValue, omit_empty: bool, extras: &[Extra<'_>]) -> String {
        let stream = {
            let start = Instant::now();
            let address = ([10, 0, 0, 9], 999).into();
            let connection = Connection::new(address, address, start);
            let (protocol, now) = (Protocol::Http11, SystemTime::now());
            StreamInfo::new(connection.into(), protocol, start, now)
        };
        fill(&mut stream.state());
        let state = stream.state();
        let context = FormatContext::recorded(&stream, &state, stream.start);
        let template = object_to_struct(template.as_object().unwrap());
        let json = Json::from_struct(&template, omit_empty, &mut Err).unwrap();
        let mut out = Vec::new();
        assert!(json.write(&context, omit_empty, extras, &mut out));
        let text = String::from_utf8(out).unwrap();
        let read: JsonValue = serde_json::from_str(&text).unwrap();
        assert_eq!(read.to_string(), text, "as serde_json has it");
        text
    }

    fn fill(state: &mut StreamState) {
        state.response.code = Some(200);
        for (name, value) in [
            ("x-quote", &b"a\"b\\c"[..]),
            ("x-bytes", b"a\xffb"),
            ("x-wide", "hä\u{2028}".as_bytes()),
            ("x-tab", b"a\tb"),
        ] {
            let value = http::HeaderValue::from_bytes(value).unwrap();
            state.request.headers.push((name.parse().unwrap(), value));
        }
        let metadata = json!({"a": [1, "x"], "b": null});
        state.metadata.set("ns", "k", metadata);
    }

    #[test]
    fn values_have_their_types_and_texts_are_escaped() {
        let template = json!({
            "quote": "%REQ(x-quote)%", "bytes": "%REQ(x-bytes)%", "wide": "%REQ(x-wide)%",
            "tab": "%REQ(x-tab)%", "code": "%RESPONSE_CODE%", "codes": "%RESPONSE_CODE%0",
            "meta": "%DYNAMIC_METADATA(ns:k)%", "no": "%DYNAMIC_METADATA(ns:no)%",
            "cut": "%REQ(x-wide):2%", "typed": "%TYPED_CEL(1 + 1)%", "empty": "",
        });
        assert_eq!(
            line(&template, false, &[]),
            concat!(
                "{\"bytes\":\"a\u{fffd}b\",\"code\":200,\"codes\":\"2000\",\"cut\":\"h\u{fffd}\",\"empty\":\"\",",
                "\"meta\":{\"a\":[1,\"x\"],\"b\":null},\"no\":null,\"quote\":\"a\\\"b\\\\c\",",
                "\"tab\":\"a\\tb\",\"typed\":2,\"wide\":\"hä\u{2028}\"}"
            )
        );
    }

    #[test]
    fn constants_lists_and_what_has_no_value() {
        let template = json!({
            "z": {"a": "%ROUTE_NAME%", "b": true}, "list": ["%ROUTE_NAME%", null, "x", 1.5, {}],
            "nothing": null, "k\"ey": "%PROTOCOL%", "gone": {"a": "%ROUTE_NAME%"},
        });
        assert_eq!(
            line(&template, false, &[]),
            "{\"gone\":{\"a\":null},\"k\\\"ey\":\"HTTP/1.1\",\"list\":[null,null,\"x\",1.5,{}],\"nothing\":null,\"z\":{\"a\":null,\"b\":true}}"
        );
        assert_eq!(
            line(&template, true, &[]),
            "{\"gone\":{},\"k\\\"ey\":\"HTTP/1.1\",\"list\":[null,null,\"x\",1.5,{}],\"z\":{\"b\":true}}"
        );
    }

    #[test]
    fn extras_stand_in_their_order_where_the_template_says_nothing() {
        let extras = [("denied_by", "a \"b\""), ("dry_run_denied_by", "c")];
        let of = |template: JsonValue, omit| line(&template, omit, &extras);
        assert_eq!(
            of(json!({"a": 1, "e": 2}), false),
            "{\"a\":1.0,\"denied_by\":\"a \\\"b\\\"\",\"dry_run_denied_by\":\"c\",\"e\":2.0}"
        );
        assert_eq!(
            of(json!({"denied_by": "mine", "z": "%ROUTE_NAME%"}), true),
            "{\"denied_by\":\"mine\",\"dry_run_denied_by\":\"c\"}"
        );
        let unsaid = json!({"dry_run_denied_by": "%ROUTE_NAME%"});
        assert_eq!(
            of(unsaid.clone(), true),
            "{\"denied_by\":\"a \\\"b\\\"\",\"dry_run_denied_by\":\"c\"}"
        );
        assert_eq!(
            of(unsaid, false),
            "{\"denied_by\":\"a \\\"b\\\"\",\"dry_run_denied_by\":null}"
        );
        assert_eq!(
            of(json!({}), true),
            "{\"denied_by\":\"a \\\"b\\\"\",\"dry_run_denied_by\":\"c\"}"
        );
    }
}
