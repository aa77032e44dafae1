//! `SubstitutionFormatString`: a text or a JSON object of formats, as logs and filter state use them.

use envoy_types::pb::envoy::config::core::v3::{
    SubstitutionFormatString, data_source, substitution_format_string,
};
use envoy_types::pb::google::protobuf::Struct;

use crate::format::json::{Extra, Json};
use crate::format::{Complain, Format, FormatContext};
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
                // Only of what was denied; whoever wrote the format didn't know the operators.
                let state = context.state;
                let denied = state.denied_by.as_deref().map(|by| (DENIED_BY, by));
                let dry_run = state.dry_run_denied_by.as_deref();
                let dry_run = dry_run.map(|by| (DRY_RUN_DENIED_BY, by));
                match (denied, dry_run) {
                    (None, None) => json.write(context, *omit_empty, &[], out),
                    (denied, dry_run) => {
                        let extras: Vec<Extra<'_>> = denied.into_iter().chain(dry_run).collect();
                        json.write(context, *omit_empty, &extras, out)
                    }
                };
                out.push(b'\n');
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Instant, SystemTime};

    use envoy_types::pb::google::protobuf::{Value, value::Kind};

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
