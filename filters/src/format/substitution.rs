//! `SubstitutionFormatString`: a text or a JSON object of formats, as logs and filter state use them.

use envoy_types::pb::envoy::config::core::v3::{
    SubstitutionFormatString, data_source, substitution_format_string,
};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};

use crate::format::{Complain, Format, FormatContext, FormatValue};
use crate::stream::stream_info::Capture;
use crate::xds::coverage::Table;
use crate::xds::coverage::harmless;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::coverage::well_known::STRUCT;
use crate::xds::rejected::Refusal;

/// A compiled substitution format.
#[derive(Clone, Debug)]
pub enum Substitution {
    Text(Format),
    /// Keys in sorted order; the line ends with a newline. `omit_empty` leaves keys without a value out.
    Json {
        json: Json,
        omit_empty: bool,
    },
}

/// A JSON template.
#[derive(Clone, Debug)]
pub enum Json {
    Format(Format),
    Constant(serde_json::Value),
    Object(Box<[(Box<str>, Json)]>),
    List(Box<[Json]>),
}

pub static SUBSTITUTION_FORMAT: Table = Table {
    name: "envoy.config.core.v3.SubstitutionFormatString",
    fields: &[
        honoured(1, "text_format"),
        honoured(2, "json_format").of(&STRUCT),
        honoured(3, "omit_empty_values"),
        honoured(4, "content_type"),
        honoured(5, "text_format_source").of(&DATA_SOURCE),
        honoured(6, "formatters").named(1).of(&FORMATTER),
        harmless(7, "json_format_options", "keys always come in sorted order"),
    ],
    refused: "",
    required: &[required("format", &[1, 2, 5])],
};

static DATA_SOURCE: Table = Table {
    name: "envoy.config.core.v3.DataSource",
    fields: &[honoured(3, "inline_string")],
    refused: "1 filename, 2 inline_bytes, 4 environment_variable, 5 watched_directory",
    required: &[required("specifier", &[3])],
};

pub(crate) static FORMATTER: Table = Table {
    name: "envoy.config.core.v3.TypedExtensionConfig",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "typed_config").any(&[&[&REQ_WITHOUT_QUERY]]),
    ],
    refused: "",
    required: &[required("typed_config", &[2])],
};

static REQ_WITHOUT_QUERY: Table = Table {
    name: "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
    fields: &[],
    refused: "",
    required: &[],
};

/// The keys under which a line of JSON names the policy that denied the request, and that which would have.
const DENIED_BY: &str = "denied_by";
const DRY_RUN_DENIED_BY: &str = "dry_run_denied_by";

impl Substitution {
    pub fn from_proto(proto: &SubstitutionFormatString) -> Result<Substitution, Refusal> {
        Substitution::from_proto_with(proto, &mut Err)
    }

    /// The same, where `complain` may let what can't be honoured pass.
    pub fn from_proto_with(
        proto: &SubstitutionFormatString,
        complain: Complain<'_>,
    ) -> Result<Substitution, Refusal> {
        let mut text = |text: &str| {
            let format = Format::parse_with(text, complain)?;
            Ok(Substitution::Text(
                format.omitting_empty(proto.omit_empty_values),
            ))
        };
        match &proto.format {
            None => Err(Refusal::missing("format")),
            Some(substitution_format_string::Format::TextFormat(format)) => text(format),
            Some(substitution_format_string::Format::TextFormatSource(source)) => {
                match &source.specifier {
                    Some(data_source::Specifier::InlineString(format)) => text(format),
                    _ => Err(Refusal::unsupported("text_format_source")),
                }
            }
            Some(substitution_format_string::Format::JsonFormat(object)) => {
                Substitution::json_with(object, proto.omit_empty_values, complain)
            }
        }
    }

    pub fn json_with(
        object: &Struct,
        omit_empty: bool,
        complain: Complain<'_>,
    ) -> Result<Substitution, Refusal> {
        let json = Json::from_struct(object, omit_empty, complain)?;
        Ok(Substitution::Json { json, omit_empty })
    }

    pub fn capture(&self) -> Capture {
        match self {
            Substitution::Text(format) => format.capture(),
            Substitution::Json { json, .. } => json.capture(),
        }
    }

    /// Appends one line or value.
    pub fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) {
        match self {
            Substitution::Text(format) => format.write(context, out),
            Substitution::Json { json, omit_empty } => {
                let mut value = json.value(context, *omit_empty);
                // Only of what was denied; whoever wrote the format didn't know the operators.
                for (key, by) in [
                    (DENIED_BY, &context.state.denied_by),
                    (DRY_RUN_DENIED_BY, &context.state.dry_run_denied_by),
                ] {
                    if let (Some(by), Some(object)) = (by, value.as_object_mut()) {
                        let told = object.entry(key);
                        told.or_insert_with(|| (&**by).into());
                    }
                }
                out.extend_from_slice(value.to_string().as_bytes());
                out.push(b'\n');
            }
        }
    }
}

impl Json {
    fn from_struct(
        object: &Struct,
        omit_empty: bool,
        complain: Complain<'_>,
    ) -> Result<Json, Refusal> {
        let mut fields = object
            .fields
            .iter()
            .map(|(key, value)| {
                let mut of_field = |refusal: Refusal| complain(refusal.within(key));
                let json = Json::from_value(value, omit_empty, &mut of_field)?;
                Ok((key.as_str().into(), json))
            })
            .collect::<Result<Vec<(Box<str>, Json)>, Refusal>>()?;
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Json::Object(fields.into()))
    }

    fn from_value(
        value: &Value,
        omit_empty: bool,
        complain: Complain<'_>,
    ) -> Result<Json, Refusal> {
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
            Some(Kind::BoolValue(b)) => Json::Constant((*b).into()),
            Some(Kind::NumberValue(n)) => Json::Constant((*n).into()),
            Some(Kind::NullValue(_)) | None => Json::Constant(serde_json::Value::Null),
        })
    }

    fn capture(&self) -> Capture {
        let mut capture = Capture::default();
        match self {
            Json::Format(format) => capture.merge(&format.capture()),
            Json::Constant(_) => {}
            Json::Object(fields) => fields.iter().for_each(|(_, v)| capture.merge(&v.capture())),
            Json::List(list) => list.iter().for_each(|v| capture.merge(&v.capture())),
        }
        capture
    }

    fn value(&self, context: &FormatContext<'_>, omit_empty: bool) -> serde_json::Value {
        match self {
            Json::Constant(value) => value.clone(),
            Json::Format(format) => match format.value(context) {
                FormatValue::Missing => serde_json::Value::Null,
                FormatValue::Number(number) => number.into(),
                FormatValue::Structured(value) => value,
                FormatValue::Text(text) => String::from_utf8_lossy(&text).into_owned().into(),
            },
            Json::Object(fields) => fields
                .iter()
                .map(|(key, value)| (key.to_string(), value.value(context, omit_empty)))
                .filter(|(_, value)| !(omit_empty && value.is_null()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Json::List(list) => list.iter().map(|v| v.value(context, omit_empty)).collect(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::stream_info::{Protocol, StreamInfo};

    fn json(omit_empty: bool) -> String {
        let text = |text: &str| Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        let template = Struct {
            fields: [
                ("route", text("%ROUTE_NAME%")),
                ("both", text("%ROUTE_NAME%/%PROTOCOL%")),
            ]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        };
        let proto = SubstitutionFormatString {
            omit_empty_values: omit_empty,
            format: Some(substitution_format_string::Format::JsonFormat(template)),
            ..SubstitutionFormatString::default()
        };
        let start = Instant::now();
        let address = ([10, 0, 0, 9], 999).into();
        let connection = Connection::new(address, address, start);
        let stream = StreamInfo::new(
            connection.into(),
            Protocol::Http11,
            start,
            SystemTime::now(),
        );
        let state = stream.state();
        let context = FormatContext::recorded(&stream, &state, start);
        let mut out = Vec::new();
        Substitution::from_proto(&proto)
            .unwrap()
            .write(&context, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn keys_without_a_value_are_null_or_left_out() {
        assert_eq!(json(false), "{\"both\":\"-/HTTP/1.1\",\"route\":null}\n");
        assert_eq!(json(true), "{\"both\":\"/HTTP/1.1\"}\n");
    }
}
