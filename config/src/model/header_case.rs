//! How names of headers are written over HTTP/1, where they have no case: some old applications look at it all the same.

use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, http1_protocol_options::header_key_format::HeaderFormat,
};
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    #[default]
    Lower,
    /// `Content-Type`.
    Title,
    /// As they came, where they came over HTTP/1.
    Preserved,
}

pub(crate) static HEADER_KEY_FORMAT: Table = Table {
    name: "envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat",
    fields: &[
        honoured(1, "proper_case_words").of(&PROPER_CASE_WORDS),
        honoured(8, "stateful_formatter").of(&FORMATTER),
    ],
    refused: "",
    required: &[required("header_format", &[1, 8])],
};

static PROPER_CASE_WORDS: Table = Table {
    name: "envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat.ProperCaseWords",
    fields: &[],
    refused: "",
    required: &[],
};

static FORMATTER: Table = Table {
    name: "envoy.config.core.v3.TypedExtensionConfig",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "typed_config").any(&[&[&PRESERVE_CASE]]),
    ],
    refused: "",
    required: &[required("typed_config", &[2])],
};

static PRESERVE_CASE: Table = Table {
    name: "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig",
    fields: &[],
    refused: "1 forward_reason_phrase, 2 formatter_type_on_envoy_headers",
    required: &[],
};

impl HeaderCase {
    pub(crate) fn from_proto(proto: Option<&Http1ProtocolOptions>) -> Result<HeaderCase, Refusal> {
        let Some(format) = proto.and_then(|http1| http1.header_key_format.as_ref()) else {
            return Ok(HeaderCase::Lower);
        };
        match &format.header_format {
            Some(HeaderFormat::ProperCaseWords(_)) => Ok(HeaderCase::Title),
            // The one that there is.
            Some(HeaderFormat::StatefulFormatter(_)) => Ok(HeaderCase::Preserved),
            None => Err(Refusal::missing("header_key_format")),
        }
    }
}
