//! The file access log of MeshConfig: Istio's own text or JSON format unless the user gives another. Telemetry stands above
//! it (`translate/telemetry/`).
//!
//! Besides the chains, the hops of a waypoint log what goes wrong on them, each with its own filter.

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3 as file;
use envoy_types::pb::envoy::extensions::formatter::req_without_query::v3::ReqWithoutQuery;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};

use crate::standalone::kinds::core::config_map::{Encoding, MeshConfig};
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::format_string;
use crate::standalone::translate::proto::packed::text;

pub(crate) const TEXT_FORMAT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
);

const JSON_FORMAT: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
];

/// Which requests or connections a hop logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logged {
    All,
    /// Connections that found no filter chain.
    NoRoute,
    /// Connections whose upstream failed.
    UpstreamFailure,
    /// Requests answered with an error.
    Errors,
}

/// The access log of the mesh.
#[derive(Debug)]
pub(crate) struct AccessLog {
    /// Empty: none is written, unless Telemetry says so.
    path: String,
    format: core::SubstitutionFormatString,
}

impl AccessLog {
    /// An error is a JSON format that is no JSON object.
    pub(crate) fn new(mesh: &MeshConfig) -> Result<AccessLog, String> {
        let path = mesh.access_log_file.clone();
        let format = match mesh.access_log_encoding {
            Encoding::Text if mesh.access_log_format.is_empty() => text_format(TEXT_FORMAT),
            Encoding::Text => text_format(&with_newline(&mesh.access_log_format)),
            Encoding::Json => match json_format(&mesh.access_log_format) {
                Ok(fields) => json(fields),
                // Nothing is written with it, unless Telemetry says so: with Istio's own then, as with istiod.
                Err(_) if path.is_empty() => json(default_fields()),
                Err(reason) => return Err(reason),
            },
        };
        Ok(AccessLog { path, format })
    }

    /// The logs of a hop: none, or one.
    pub(crate) fn logs(&self, logged: Logged) -> Vec<accesslog::AccessLog> {
        if self.path.is_empty() {
            return Vec::new();
        }
        vec![accesslog::AccessLog {
            filter: filter(logged),
            ..self.at(&self.path)
        }]
    }

    /// The same in another file.
    pub(crate) fn at(&self, path: &str) -> accesslog::AccessLog {
        file_log(path, self.format.clone())
    }
}

/// A log that is written to a file.
pub(crate) fn file_log(path: &str, format: core::SubstitutionFormatString) -> accesslog::AccessLog {
    let config = file::FileAccessLog {
        path: path.to_owned(),
        access_log_format: Some(file::file_access_log::AccessLogFormat::LogFormat(format)),
    };
    accesslog::AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter: None,
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(any(&config))),
    }
}

/// A format of a line, with what it needs of extensions.
pub(crate) fn text_format(text: &str) -> core::SubstitutionFormatString {
    core::SubstitutionFormatString {
        formatters: formatters([text]),
        ..format_string(text)
    }
}

/// A JSON object as a line; its extensions are those that its own fields need, as istiod has it.
pub(crate) fn json(fields: Struct) -> core::SubstitutionFormatString {
    let texts = fields
        .fields
        .values()
        .filter_map(|value| match &value.kind {
            Some(Kind::StringValue(text)) => Some(text.as_str()),
            _ => None,
        });
    core::SubstitutionFormatString {
        formatters: formatters(texts),
        json_format_options: Some(core::JsonFormatOptions::default()),
        format: Some(core::substitution_format_string::Format::JsonFormat(fields)),
        ..core::SubstitutionFormatString::default()
    }
}

/// What formats need of extensions.
pub(crate) fn formatters<'t>(
    texts: impl IntoIterator<Item = &'t str>,
) -> Vec<core::TypedExtensionConfig> {
    let mut texts = texts.into_iter();
    let needed = texts.any(|text| text.contains("%REQ_WITHOUT_QUERY"));
    let formatter = core::TypedExtensionConfig {
        name: "envoy.formatter.req_without_query".to_owned(),
        typed_config: Some(any(&ReqWithoutQuery {})),
    };
    needed.then_some(formatter).into_iter().collect()
}

pub(crate) fn with_newline(format: &str) -> String {
    if format.ends_with('\n') {
        format.to_owned()
    } else {
        format!("{format}\n")
    }
}

/// Fields of Istio's own JSON format.
pub(crate) fn default_fields() -> Struct {
    let fields = JSON_FORMAT
        .iter()
        .map(|(name, format)| ((*name).to_owned(), text(format)));
    Struct {
        fields: fields.collect(),
    }
}

fn json_format(user: &str) -> Result<Struct, String> {
    if user.is_empty() {
        return Ok(default_fields());
    }
    match serde_json::from_str(user).map_err(|error| error.to_string())? {
        serde_json::Value::Object(fields) => Ok(fields_of(fields)),
        _ => Err("accessLogFormat is no JSON object".to_owned()),
    }
}

pub(crate) fn fields_of(json: serde_json::Map<String, serde_json::Value>) -> Struct {
    let fields = json.into_iter().map(|(name, json)| (name, value(json)));
    Struct {
        fields: fields.collect(),
    }
}

fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(truth) => Kind::BoolValue(truth),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(value).collect(),
        }),
        Json::Object(fields) => Kind::StructValue(fields_of(fields)),
    };
    Value { kind: Some(kind) }
}

pub(crate) fn filter(logged: Logged) -> Option<accesslog::AccessLogFilter> {
    use accesslog::access_log_filter::FilterSpecifier;
    let flag = |flag: &str| {
        FilterSpecifier::ResponseFlagFilter(accesslog::ResponseFlagFilter {
            flags: vec![flag.to_owned()],
        })
    };
    let specifier = match logged {
        Logged::All => return None,
        Logged::NoRoute => flag("NR"),
        Logged::UpstreamFailure => flag("UF"),
        Logged::Errors => FilterSpecifier::StatusCodeFilter(accesslog::StatusCodeFilter {
            comparison: Some(accesslog::ComparisonFilter {
                op: accesslog::comparison_filter::Op::Ge.into(),
                value: Some(core::RuntimeUInt32 {
                    default_value: 400,
                    runtime_key: "istio.io/unset".to_owned(),
                }),
            }),
        }),
    };
    Some(accesslog::AccessLogFilter {
        filter_specifier: Some(specifier),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn log(format: &str, encoding: Encoding) -> Result<AccessLog, String> {
        AccessLog::new(&MeshConfig {
            access_log_file: "/dev/stdout".to_owned(),
            access_log_format: format.to_owned(),
            access_log_encoding: encoding,
            ..MeshConfig::default()
        })
    }

    #[test]
    fn off_without_a_file() {
        let off = AccessLog::new(&MeshConfig::default()).unwrap();
        assert!(off.logs(Logged::All).is_empty());
        assert_eq!(log("", Encoding::Text).unwrap().logs(Logged::All).len(), 1);
    }

    #[test]
    fn a_json_format_must_be_an_object() {
        assert!(log("{\"a\": {\"b\": [\"%PROTOCOL%\"]}}", Encoding::Json).is_ok());
        assert!(log("", Encoding::Json).is_ok());
        assert!(log("[%PROTOCOL%]", Encoding::Json).is_err());
        assert!(log("\"%PROTOCOL%\"", Encoding::Json).is_err());
        let unused = AccessLog::new(&MeshConfig {
            access_log_format: "[]".to_owned(),
            access_log_encoding: Encoding::Json,
            ..MeshConfig::default()
        });
        assert!(unused.is_ok());
    }
}
