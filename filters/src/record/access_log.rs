//! Access logs: which streams are written, and how. The file sink is the one that istiod sends by default.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog as AccessLogProto, AccessLogFilter, ComparisonFilter, access_log,
    access_log_filter::FilterSpecifier, comparison_filter::Op,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};

use crate::format::substitution::{SUBSTITUTION_FORMAT, Substitution};
use crate::format::{Complain, Format, FormatContext};
use crate::host::{Host, LogSink};
use crate::record::recorder::Recorder;
use crate::stream::response_flags::ResponseFlags;
use crate::stream::stream_info::{Capture, StreamInfo, StreamState};
use crate::xds::coverage::harmless;
use crate::xds::coverage::honoured;
use crate::xds::coverage::left_out;
use crate::xds::coverage::required;
use crate::xds::coverage::well_known::STRUCT;
use crate::xds::coverage::{self, Table};
use crate::xds::omitted::{Omissions, OmittedKind};
use crate::xds::rejected::Refusal;

const FILE: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";

/// Envoy's own default format.
const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Writes a line for each stream that its filter lets through.
pub struct AccessLog {
    filter: Option<Filter>,
    format: Substitution,
    sink: Arc<dyn LogSink>,
}

#[derive(Debug)]
enum Filter {
    StatusCode(Op, u32),
    Duration(Op, u32),
    /// Any of these flags; empty: any flag at all.
    Flags(ResponseFlags),
    And(Box<[Filter]>),
    Or(Box<[Filter]>),
    Always,
}

/// A log that can't be written as it is configured is left out, and told of.
const LEFT_OUT: &str = "a log with this filter is not written";

pub static ACCESS_LOG: Table = Table {
    name: "envoy.config.accesslog.v3.AccessLog",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "filter").of(&FILTER),
        left_out(
            4,
            "typed_config",
            "logs of other types than a file are not written",
        )
        .any(&[&[&FILE_CONFIG]]),
    ],
    refused: "",
    required: &[],
};

static FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.AccessLogFilter",
    fields: &[
        honoured(1, "status_code_filter").of(&STATUS_CODE_FILTER),
        honoured(2, "duration_filter").of(&DURATION_FILTER),
        honoured(3, "not_health_check_filter").of(&NOT_HEALTH_CHECK_FILTER),
        left_out(4, "traceable_filter", LEFT_OUT),
        left_out(5, "runtime_filter", LEFT_OUT),
        honoured(6, "and_filter").of(&AND_FILTER),
        honoured(7, "or_filter").of(&OR_FILTER),
        left_out(8, "header_filter", LEFT_OUT),
        honoured(9, "response_flag_filter").of(&RESPONSE_FLAG_FILTER),
        left_out(10, "grpc_status_filter", LEFT_OUT),
        left_out(11, "extension_filter", LEFT_OUT),
        left_out(12, "metadata_filter", LEFT_OUT),
        left_out(13, "log_type_filter", LEFT_OUT),
    ],
    refused: "",
    required: &[],
};

static STATUS_CODE_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.StatusCodeFilter",
    fields: &[honoured(1, "comparison").of(&COMPARISON)],
    refused: "",
    required: &[],
};

static DURATION_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.DurationFilter",
    fields: &[honoured(1, "comparison").of(&COMPARISON)],
    refused: "",
    required: &[],
};

static COMPARISON: Table = Table {
    name: "envoy.config.accesslog.v3.ComparisonFilter",
    fields: &[honoured(1, "op"), honoured(2, "value").of(&RUNTIME_UINT32)],
    refused: "",
    required: &[],
};

static RUNTIME_UINT32: Table = Table {
    name: "envoy.config.core.v3.RuntimeUInt32",
    fields: &[
        honoured(2, "default_value"),
        harmless(
            3,
            "runtime_key",
            "there is no runtime that could override the value",
        ),
    ],
    refused: "",
    required: &[],
};

static NOT_HEALTH_CHECK_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.NotHealthCheckFilter",
    fields: &[],
    refused: "",
    required: &[],
};

static AND_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.AndFilter",
    fields: &[honoured(1, "filters").list().of(&FILTER)],
    refused: "",
    required: &[],
};

static OR_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.OrFilter",
    fields: &[honoured(2, "filters").list().of(&FILTER)],
    refused: "",
    required: &[],
};

static RESPONSE_FLAG_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.ResponseFlagFilter",
    fields: &[honoured(1, "flags").list()],
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
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl AccessLog {
    /// The log that `proto` describes; one that isn't built is left out, and of one with an operator that isn't
    /// known that operator's value is.
    pub fn optional(
        proto: &AccessLogProto,
        host: &dyn Host,
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
        AccessLog::from_proto_with(proto, host, &mut lose)
            .map_err(leave_out)
            .ok()
    }

    pub fn from_proto(proto: &AccessLogProto, host: &dyn Host) -> Result<AccessLog, Refusal> {
        AccessLog::from_proto_with(proto, host, &mut Err)
    }

    fn from_proto_with(
        proto: &AccessLogProto,
        host: &dyn Host,
        complain: Complain<'_>,
    ) -> Result<AccessLog, Refusal> {
        let Some(access_log::ConfigType::TypedConfig(any)) = &proto.config_type else {
            return Err(Refusal::missing("typed_config"));
        };
        if any.type_url != FILE {
            return Err(Refusal::new(
                "typed_config",
                format!("unknown access log type {}", any.type_url),
            ));
        }
        // What is left out of a chain isn't covered by the walk over it.
        let file: FileAccessLog =
            coverage::decode(&any.value, &FILE_CONFIG).map_err(|e| e.within("typed_config"))?;
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
        Ok(AccessLog {
            filter: proto.filter.as_ref().map(|f| filter(f, 0)).transpose()?,
            format,
            sink: host.log_sink(&file.path),
        })
    }
}

fn filter(proto: &AccessLogFilter, depth: usize) -> Result<Filter, Refusal> {
    if depth > 8 {
        return Err(Refusal::new("filter", "is nested too deeply"));
    }
    let list = |filters: &[AccessLogFilter]| {
        filters
            .iter()
            .map(|f| filter(f, depth + 1))
            .collect::<Result<Box<[_]>, _>>()
    };
    let specifier = proto
        .filter_specifier
        .as_ref()
        .ok_or_else(|| Refusal::missing("filter.filter_specifier"))?;
    Ok(match specifier {
        FilterSpecifier::StatusCodeFilter(f) => {
            let (op, value) = comparison(f.comparison.as_ref())?;
            Filter::StatusCode(op, value)
        }
        FilterSpecifier::DurationFilter(f) => {
            let (op, value) = comparison(f.comparison.as_ref())?;
            Filter::Duration(op, value)
        }
        FilterSpecifier::ResponseFlagFilter(f) => {
            let mut flags = ResponseFlags::default();
            for name in &f.flags {
                flags.insert(ResponseFlags::from_short_name(name).ok_or_else(|| {
                    Refusal::new(
                        "filter.response_flag_filter",
                        format!("unknown flag {name}"),
                    )
                })?);
            }
            Filter::Flags(flags)
        }
        FilterSpecifier::AndFilter(f) => Filter::And(list(&f.filters)?),
        FilterSpecifier::OrFilter(f) => Filter::Or(list(&f.filters)?),
        // Nothing is a health check here: no filter marks one.
        FilterSpecifier::NotHealthCheckFilter(_) => Filter::Always,
        FilterSpecifier::ExtensionFilter(f) => {
            return Err(Refusal::unsupported(format!(
                "filter.extension_filter {}",
                f.name
            )));
        }
        _ => return Err(Refusal::unsupported("filter")),
    })
}

fn comparison(proto: Option<&ComparisonFilter>) -> Result<(Op, u32), Refusal> {
    let proto = proto.ok_or_else(|| Refusal::missing("filter.comparison"))?;
    let op = Op::try_from(proto.op).map_err(|_| {
        Refusal::new(
            "filter.comparison.op",
            format!("unknown value {}", proto.op),
        )
    })?;
    Ok((op, proto.value.as_ref().map_or(0, |v| v.default_value)))
}

fn compare(op: Op, left: u64, right: u32) -> bool {
    let right = u64::from(right);
    match op {
        Op::Eq => left == right,
        Op::Ge => left >= right,
        Op::Le => left <= right,
        Op::Ne => left != right,
    }
}

impl Filter {
    fn passes(&self, stream: &StreamInfo, state: &StreamState, end: Instant) -> bool {
        match self {
            Filter::StatusCode(op, code) => {
                compare(*op, u64::from(state.response.code.unwrap_or(0)), *code)
            }
            Filter::Duration(op, limit) => {
                let millis = end.saturating_duration_since(stream.start).as_millis();
                compare(*op, u64::try_from(millis).unwrap_or(u64::MAX), *limit)
            }
            Filter::Flags(flags) if flags.is_empty() => !state.flags.is_empty(),
            Filter::Flags(flags) => state.flags.intersects(*flags),
            Filter::And(all) => all.iter().all(|f| f.passes(stream, state, end)),
            Filter::Or(any) => any.iter().any(|f| f.passes(stream, state, end)),
            Filter::Always => true,
        }
    }
}

thread_local! {
    /// A line is put together here, so that writing one allocates nothing.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Recorder for AccessLog {
    fn capture(&self) -> Capture {
        self.format.capture()
    }

    fn record(&self, stream: &StreamInfo, end: Instant) {
        let state = stream.state();
        if let Some(filter) = &self.filter
            && !filter.passes(stream, &state, end)
        {
            return;
        }
        let context = FormatContext {
            stream,
            state: &state,
            request: None,
            response: None,
            end,
        };
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.format.write(&context, line);
            self.sink.write(line);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use envoy_types::pb::google::protobuf::Any;
    use prost::Message as _;

    use super::*;
    use crate::callout::Callouts;
    use crate::host::Terminal;
    use crate::metrics::MetricRegistry;
    use crate::service::HttpService;
    use crate::stream::peer::Peer;

    struct Bare(Arc<MetricRegistry>);

    struct NoLog;

    impl LogSink for NoLog {
        fn write(&self, _: &[u8]) {}
    }

    impl Host for Bare {
        fn workload(&self, _: IpAddr) -> Option<Arc<Peer>> {
            None
        }

        fn log_sink(&self, _: &str) -> Arc<dyn LogSink> {
            Arc::new(NoLog)
        }

        fn metrics(&self) -> &Arc<MetricRegistry> {
            &self.0
        }

        fn callouts(&self) -> Arc<dyn Callouts> {
            unreachable!("a log calls nobody")
        }

        fn terminal(&self, _: Terminal) -> HttpService {
            unreachable!("no chain is built here")
        }
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
        let host = Bare(Arc::default());
        let omissions = Omissions::default();
        let mut newer = log(FILE);
        if let Some(access_log::ConfigType::TypedConfig(any)) = &mut newer.config_type {
            // Field 1000, a varint.
            any.value.extend_from_slice(&[0xc0, 0x3e, 0x01]);
        }
        assert!(AccessLog::optional(&newer, &host, &omissions).is_none());
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
        let log = AccessLog::optional(&proto, &Bare(Arc::default()), &omissions);
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
        let host = Bare(Arc::default());
        let omissions = Omissions::default();
        assert!(AccessLog::optional(&log(FILE), &host, &omissions).is_some());
        let other = log("type.googleapis.com/other.Sink");
        assert!(AccessLog::optional(&other, &host, &omissions).is_none());
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
