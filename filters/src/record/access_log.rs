//! Access logs: which streams are written, how, and to whom: files, the process's own output, and services
//! (`telemetry/log_service/`).

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog as AccessLogProto, access_log};
use envoy_types::pb::envoy::config::core::v3::SubstitutionFormatString;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{
    StderrAccessLog, StdoutAccessLog, stderr_access_log, stdout_access_log,
};
use envoy_types::pb::google::protobuf::Any;

use crate::callout::{Callout, CalloutCluster};
use crate::format::substitution::{SUBSTITUTION_FORMAT, Substitution};
use crate::format::{Complain, Format, FormatContext};
use crate::host::{Host, LogSink};
use crate::record::log_filter::{FILTER, LogFilter};
use crate::stream::recorder::Recorder;
use crate::stream::stream_info::{Capture, StreamInfo};
use crate::telemetry::log_service::access_log_service::{AccessLogService, HTTP_GRPC, TCP_GRPC};
use crate::telemetry::log_service::open_telemetry::{OPEN_TELEMETRY, OpenTelemetryLog};
use crate::telemetry::log_service::services::ServiceContext;
use crate::xds::coverage::harmless;
use crate::xds::coverage::honoured;
use crate::xds::coverage::left_out;
use crate::xds::coverage::required;
use crate::xds::coverage::well_known::STRUCT;
use crate::xds::coverage::{self, Table};
use crate::xds::omitted::{Omissions, OmittedKind};
use crate::xds::rejected::Refusal;

/// Envoy's own default format.
const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Writes a line or an entry for each stream that its filter lets through.
pub struct AccessLog {
    filter: Option<LogFilter>,
    way: Way,
}

/// What logs are compiled with.
pub struct LogContext<'a> {
    pub host: &'a dyn Host,
    /// The place of the cluster with this name, whether there is one or not.
    pub clusters: &'a dyn Fn(&str) -> Arc<dyn CalloutCluster>,
}

/// What becomes of a stream.
enum Way {
    Line {
        format: Substitution,
        sink: Arc<dyn LogSink>,
    },
    OpenTelemetry(OpenTelemetryLog),
    Service(AccessLogService),
}

pub static ACCESS_LOG: Table = Table {
    name: "envoy.config.accesslog.v3.AccessLog",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "filter").of(&FILTER),
        left_out(4, "typed_config", "logs of other types are not written").any(&[TYPES]),
    ],
    refused: "",
    required: &[],
};

/// Types of logs that are written.
static TYPES: &[&Table] = &[
    &FILE_CONFIG,
    &STDOUT,
    &STDERR,
    &OPEN_TELEMETRY,
    &HTTP_GRPC,
    &TCP_GRPC,
];

static STDOUT: Table = Table {
    name: "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    fields: &[honoured(1, "log_format").of(&SUBSTITUTION_FORMAT)],
    refused: "",
    required: &[],
};

static STDERR: Table = Table {
    name: "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
    fields: &[honoured(1, "log_format").of(&SUBSTITUTION_FORMAT)],
    refused: "",
    required: &[],
};

static FILE_CONFIG: Table = Table {
    name: "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    fields: &[
        honoured(1, "path"),
        honoured(2, "format"),
        honoured(3, "json_format").of(&STRUCT),
        honoured(4, "typed_json_format").of(&STRUCT),
        honoured(5, "log_format").of(&SUBSTITUTION_FORMAT),
    ],
    refused: "",
    required: &[required("path", &[1])],
};

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("filter", &self.filter)
            .field("way", &self.way)
            .finish()
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Line { format, .. } => f.debug_tuple("Line").field(format).finish(),
            Way::OpenTelemetry(log) => log.fmt(f),
            Way::Service(log) => log.fmt(f),
        }
    }
}

impl AccessLog {
    /// The log that `proto` describes; one that isn't built is left out, and of one with an operator that isn't
    /// known that operator's value is.
    pub fn optional(
        proto: &AccessLogProto,
        context: &LogContext<'_>,
        omissions: &Omissions,
    ) -> Option<AccessLog> {
        let leave_out = |refusal: Refusal| {
            let field = format!("access_log[{:?}]", proto.name);
            omissions.add(OmittedKind::AccessLog, refusal.within(field));
        };
        let mut lose = |refusal: Refusal| {
            leave_out(refusal);
            Ok(())
        };
        AccessLog::from_proto_with(proto, context, &mut lose)
            .map_err(leave_out)
            .ok()
    }

    pub fn from_proto(
        proto: &AccessLogProto,
        context: &LogContext<'_>,
    ) -> Result<AccessLog, Refusal> {
        AccessLog::from_proto_with(proto, context, &mut Err)
    }

    fn from_proto_with(
        proto: &AccessLogProto,
        context: &LogContext<'_>,
        complain: Complain<'_>,
    ) -> Result<AccessLog, Refusal> {
        let Some(access_log::ConfigType::TypedConfig(any)) = &proto.config_type else {
            return Err(Refusal::missing("typed_config"));
        };
        let known = TYPES.iter().find(|table| table.has_type_url(&any.type_url));
        let Some(table) = known else {
            return Err(Refusal::new(
                "typed_config",
                format!("unknown access log type {}", any.type_url),
            ));
        };
        let filter = proto.filter.as_ref().map(LogFilter::from_proto);
        Ok(AccessLog {
            filter: filter.transpose()?,
            way: Way::from_proto(any, table, context, complain)
                .map_err(|e| e.within("typed_config"))?,
        })
    }
}

impl Way {
    fn from_proto(
        any: &Any,
        table: &'static Table,
        context: &LogContext<'_>,
        complain: Complain<'_>,
    ) -> Result<Way, Refusal> {
        // What is left out of a chain isn't covered by the walk over it.
        coverage::check(&any.value, table)?;
        let output = |format: Option<&SubstitutionFormatString>, path, complain: Complain<'_>| {
            let format = match format {
                None => Substitution::Text(Format::parse(DEFAULT_FORMAT)?),
                Some(format) => Substitution::from_proto_with(format, complain)?,
            };
            let sink = context.host.log_sink(path);
            Ok(Way::Line { format, sink })
        };
        let host = context.host;
        let cluster = |name: &str| Callout::new((context.clusters)(name), host.callouts());
        let service = ServiceContext {
            services: host.log_services(),
            node: &host.trace_providers().node,
            cluster: &cluster,
        };
        if std::ptr::eq(table, &OPEN_TELEMETRY) {
            let proto = coverage::decode_any(any)?;
            let log = OpenTelemetryLog::from_proto(any, &proto, &service, complain)?;
            return Ok(Way::OpenTelemetry(log));
        }
        if std::ptr::eq(table, &HTTP_GRPC) {
            let proto = coverage::decode_any(any)?;
            return AccessLogService::of_http(any, &proto, &service).map(Way::Service);
        }
        if std::ptr::eq(table, &TCP_GRPC) {
            let proto = coverage::decode_any(any)?;
            return AccessLogService::of_tcp(any, &proto, &service).map(Way::Service);
        }
        if std::ptr::eq(table, &STDOUT) {
            let proto: StdoutAccessLog = coverage::decode_any(any)?;
            let format = proto.access_log_format.as_ref();
            let format = format.map(|stdout_access_log::AccessLogFormat::LogFormat(f)| f);
            return output(format, "/dev/stdout", complain);
        }
        if std::ptr::eq(table, &STDERR) {
            let proto: StderrAccessLog = coverage::decode_any(any)?;
            let format = proto.access_log_format.as_ref();
            let format = format.map(|stderr_access_log::AccessLogFormat::LogFormat(f)| f);
            return output(format, "/dev/stderr", complain);
        }
        let file: FileAccessLog = coverage::decode_any(any)?;
        let format = match &file.access_log_format {
            None => Substitution::Text(Format::parse(DEFAULT_FORMAT)?),
            Some(AccessLogFormat::Format(text)) => {
                Substitution::Text(Format::parse_with(text, complain)?)
            }
            Some(AccessLogFormat::LogFormat(format)) => {
                Substitution::from_proto_with(format, complain)?
            }
            Some(AccessLogFormat::JsonFormat(json) | AccessLogFormat::TypedJsonFormat(json)) => {
                Substitution::json_with(json, false, complain)?
            }
        };
        let sink = context.host.log_sink(&file.path);
        Ok(Way::Line { format, sink })
    }
}

thread_local! {
    /// A line is put together here, so that writing one allocates nothing.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Recorder for AccessLog {
    fn capture(&self) -> Capture {
        let mut capture = match &self.way {
            Way::Line { format, .. } => format.capture(),
            Way::OpenTelemetry(log) => log.capture(),
            Way::Service(log) => log.capture(),
        };
        if let Some(filter) = &self.filter {
            filter.capture(&mut capture);
        }
        capture
    }

    fn record(&self, stream: &StreamInfo, end: Instant) {
        let state = stream.state();
        let context = FormatContext::recorded(stream, &state, end);
        if let Some(filter) = &self.filter
            && !filter.passes(&context)
        {
            return;
        }
        match &self.way {
            Way::Line { format, sink } => LINE.with_borrow_mut(|line| {
                line.clear();
                format.write(&context, line);
                sink.write(line);
            }),
            Way::OpenTelemetry(log) => log.record(&context),
            Way::Service(log) => log.record(&context),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::host::detached::DetachedHost;

    const FILE: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";

    struct Slot(Arc<str>);

    impl CalloutCluster for Slot {
        fn name(&self) -> &Arc<str> {
            &self.0
        }
    }

    fn optional(proto: &AccessLogProto, omissions: &Omissions) -> Option<AccessLog> {
        let context = LogContext {
            host: &DetachedHost::default(),
            clusters: &|name| Arc::new(Slot(name.into())),
        };
        AccessLog::optional(proto, &context, omissions)
    }

    fn log(type_url: &str) -> AccessLogProto {
        AccessLogProto {
            name: "log".into(),
            config_type: Some(access_log::ConfigType::TypedConfig(Any {
                type_url: type_url.into(),
                value: FileAccessLog {
                    path: "/dev/stdout".into(),
                    ..FileAccessLog::default()
                }
                .encode_to_vec(),
            })),
            ..AccessLogProto::default()
        }
    }

    #[test]
    fn a_log_that_is_not_known_whole_is_not_written() {
        let omissions = Omissions::default();
        let mut newer = log(FILE);
        if let Some(access_log::ConfigType::TypedConfig(any)) = &mut newer.config_type {
            // Field 1000, a varint.
            any.value.extend_from_slice(&[0xc0, 0x3e, 0x01]);
        }
        assert!(optional(&newer, &omissions).is_none());
        assert_eq!(omissions.into_vec().len(), 1);
    }

    #[test]
    fn an_operator_that_nobody_knows_costs_its_value_only() {
        let omissions = Omissions::default();
        let mut proto = log(FILE);
        if let Some(access_log::ConfigType::TypedConfig(any)) = &mut proto.config_type {
            let file = FileAccessLog {
                path: "/dev/stdout".into(),
                access_log_format: Some(AccessLogFormat::Format(
                    "%PROTOCOL% %NOPE(x)% 5% %RESPONSE_CODE%".into(),
                )),
            };
            any.value = file.encode_to_vec();
        }
        let log = optional(&proto, &omissions);
        assert!(log.is_some());
        let told: Vec<String> = omissions
            .into_vec()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().any(|told| told.contains("%NOPE%")), "{told:?}");
    }

    #[test]
    fn a_sink_that_is_not_built_is_left_out_and_told_of() {
        let omissions = Omissions::default();
        assert!(optional(&log(FILE), &omissions).is_some());
        let other = log("type.googleapis.com/other.Sink");
        assert!(optional(&other, &omissions).is_none());
        let told: Vec<String> = omissions
            .into_vec()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "left out (access_log): access_log[\"log\"].typed_config: unknown access log type type.googleapis.com/other.Sink"
            ]
        );
    }
}
