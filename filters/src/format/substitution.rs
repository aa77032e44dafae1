//! `SubstitutionFormatString`: a text or a JSON object of formats, as logs and filter state use them.

use envoy_types::pb::envoy::config::core::v3::{
    SubstitutionFormatString, data_source, substitution_format_string,
};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};

use crate::format::{Format, FormatContext, FormatValue};
use crate::rejected::Refusal;
use crate::stream_info::Capture;

const REQ_WITHOUT_QUERY: &str = "envoy.formatter.req_without_query";

/// A compiled substitution format.
#[derive(Clone, Debug)]
pub enum Substitution {
    Text(Format),
    /// Keys in sorted order; the line ends with a newline.
    Json(Json),
}

/// A JSON template.
#[derive(Clone, Debug)]
pub enum Json {
    Format(Format),
    Constant(serde_json::Value),
    Object(Box<[(Box<str>, Json)]>),
    List(Box<[Json]>),
}

impl Substitution {
    pub fn from_proto(proto: &SubstitutionFormatString) -> Result<Substitution, Refusal> {
        for formatter in &proto.formatters {
            if formatter.name != REQ_WITHOUT_QUERY {
                return Err(Refusal::unsupported(format!(
                    "formatters[{}]",
                    formatter.name
                )));
            }
        }
        match &proto.format {
            None => Err(Refusal::missing("format")),
            Some(substitution_format_string::Format::TextFormat(text)) => {
                Ok(Substitution::Text(Format::parse(text)?))
            }
            Some(substitution_format_string::Format::TextFormatSource(source)) => {
                match &source.specifier {
                    Some(data_source::Specifier::InlineString(text)) => {
                        Ok(Substitution::Text(Format::parse(text)?))
                    }
                    _ => Err(Refusal::unsupported("text_format_source")),
                }
            }
            Some(substitution_format_string::Format::JsonFormat(object)) => {
                Ok(Substitution::Json(Json::from_struct(object)?))
            }
        }
    }

    pub fn capture(&self) -> Capture {
        match self {
            Substitution::Text(format) => format.capture(),
            Substitution::Json(json) => json.capture(),
        }
    }

    /// Appends one line or value.
    pub fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) {
        match self {
            Substitution::Text(format) => format.write(context, out),
            Substitution::Json(json) => {
                out.extend_from_slice(json.value(context).to_string().as_bytes());
                out.push(b'\n');
            }
        }
    }
}

impl Json {
    pub fn from_struct(object: &Struct) -> Result<Json, Refusal> {
        let mut fields = object
            .fields
            .iter()
            .map(|(key, value)| {
                let json = Json::from_value(value).map_err(|e| e.within(key))?;
                Ok((key.as_str().into(), json))
            })
            .collect::<Result<Vec<(Box<str>, Json)>, Refusal>>()?;
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Json::Object(fields.into()))
    }

    fn from_value(value: &Value) -> Result<Json, Refusal> {
        Ok(match &value.kind {
            Some(Kind::StringValue(text)) => Json::Format(Format::parse(text)?),
            Some(Kind::StructValue(object)) => Json::from_struct(object)?,
            Some(Kind::ListValue(list)) => Json::List(
                list.values
                    .iter()
                    .map(Json::from_value)
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

    fn value(&self, context: &FormatContext<'_>) -> serde_json::Value {
        match self {
            Json::Constant(value) => value.clone(),
            Json::Format(format) => match format.value(context) {
                FormatValue::Missing => serde_json::Value::Null,
                FormatValue::Number(number) => number.into(),
                FormatValue::Text(text) => String::from_utf8_lossy(&text).into_owned().into(),
            },
            Json::Object(fields) => fields
                .iter()
                .map(|(key, value)| (key.to_string(), value.value(context)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Json::List(list) => list.iter().map(|v| v.value(context)).collect(),
        }
    }
}
