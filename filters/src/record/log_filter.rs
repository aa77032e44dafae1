//! Which streams an access log has: Envoy's filters of logs, alone or joined.
//!
//! A log whose filter isn't built is left out as a whole, and told of. Filters look at what was captured of the request, as the
//! log's line does.

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, ComparisonFilter, ExtensionFilter, GrpcStatusFilter, LogTypeFilter,
    MetadataFilter, ResponseFlagFilter, RuntimeFilter, access_log_filter::FilterSpecifier,
    comparison_filter::Op, extension_filter,
};
use envoy_types::pb::envoy::data::accesslog::v3::AccessLogType;
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use http::HeaderName;

use crate::cel::Expression;
use crate::cel::grpc_status::{self, grpc_status};
use crate::format::FormatContext;
use crate::matcher::fraction::{FRACTION, Fraction};
use crate::matcher::header::{HEADER_MATCHER, HeaderMatcher};
use crate::matcher::metadata::{METADATA_MATCHER, MetadataMatcher};
use crate::stream::response_flags::ResponseFlags;
use crate::stream::stream_info::{Capture, Protocol};
use crate::xds::coverage::well_known::BOOL_VALUE;
use crate::xds::coverage::{self, Table, harmless, honoured, left_out, required};
use crate::xds::rejected::Refusal;

#[derive(Debug)]
pub(super) enum LogFilter {
    StatusCode(Op, u32),
    Duration(Op, u32),
    /// Any of these flags; empty: any flag at all.
    Flags(ResponseFlags),
    Header(HeaderMatcher),
    /// By number; what has none is 2, as in Envoy.
    GrpcStatus {
        statuses: Box<[i32]>,
        exclude: bool,
    },
    Metadata {
        matcher: Box<MetadataMatcher>,
        /// Where there is no such value.
        missing: bool,
    },
    LogType {
        types: Box<[AccessLogType]>,
        exclude: bool,
    },
    /// So many, by the request's id unless chosen independently of it.
    Share {
        share: Fraction,
        independent: bool,
    },
    Expression(Box<Expression>),
    And(Box<[LogFilter]>),
    Or(Box<[LogFilter]>),
    Always,
}

/// Filters within each other.
const MAX_DEPTH: usize = 8;

const EXPRESSION: &str =
    "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(super) static FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.AccessLogFilter",
    fields: &[
        honoured(1, "status_code_filter").of(&STATUS_CODE_FILTER),
        honoured(2, "duration_filter").of(&DURATION_FILTER),
        honoured(3, "not_health_check_filter").of(&NOT_HEALTH_CHECK_FILTER),
        left_out(
            4,
            "traceable_filter",
            "no tracer is built: a log with this filter is not written",
        ),
        honoured(5, "runtime_filter").of(&RUNTIME_FILTER),
        honoured(6, "and_filter").of(&AND_FILTER),
        honoured(7, "or_filter").of(&OR_FILTER),
        honoured(8, "header_filter").of(&HEADER_FILTER),
        honoured(9, "response_flag_filter").of(&RESPONSE_FLAG_FILTER),
        honoured(10, "grpc_status_filter").of(&GRPC_STATUS_FILTER),
        honoured(11, "extension_filter").of(&EXTENSION_FILTER),
        honoured(12, "metadata_filter").of(&METADATA_FILTER),
        honoured(13, "log_type_filter").of(&LOG_TYPE_FILTER),
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

static HEADER_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.HeaderFilter",
    fields: &[honoured(1, "header").of(&HEADER_MATCHER)],
    refused: "",
    required: &[required("header", &[1])],
};

static GRPC_STATUS_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.GrpcStatusFilter",
    fields: &[honoured(1, "statuses").list(), honoured(2, "exclude")],
    refused: "",
    required: &[],
};

static METADATA_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.MetadataFilter",
    fields: &[
        honoured(1, "matcher").of(&METADATA_MATCHER),
        honoured(2, "match_if_key_not_found").of(&BOOL_VALUE),
    ],
    refused: "",
    required: &[required("matcher", &[1])],
};

static LOG_TYPE_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.LogTypeFilter",
    fields: &[honoured(1, "types").list(), honoured(2, "exclude")],
    refused: "",
    required: &[],
};

static RUNTIME_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.RuntimeFilter",
    fields: &[
        harmless(
            1,
            "runtime_key",
            "there is no runtime that could override the value",
        ),
        honoured(2, "percent_sampled").of(&FRACTION),
        honoured(3, "use_independent_randomness"),
    ],
    refused: "",
    required: &[],
};

static EXTENSION_FILTER: Table = Table {
    name: "envoy.config.accesslog.v3.ExtensionFilter",
    fields: &[
        harmless(1, "name", "the type decides"),
        left_out(
            3,
            "typed_config",
            "a log with a filter of another type than CEL is not written",
        )
        .any(&[&[&EXPRESSION_FILTER]]),
    ],
    refused: "",
    required: &[required("typed_config", &[3])],
};

static EXPRESSION_FILTER: Table = Table {
    name: "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
    fields: &[
        honoured(1, "expression"),
        harmless(
            2,
            "cel_config",
            "texts can be joined, converted and worked on in any case",
        ),
    ],
    refused: "",
    required: &[],
};

impl LogFilter {
    pub(super) fn from_proto(proto: &AccessLogFilter) -> Result<LogFilter, Refusal> {
        filter(proto, 0)
    }

    /// What has to be kept of streams.
    pub(super) fn capture(&self, capture: &mut Capture) {
        let want = |list: &mut Vec<HeaderName>, name: &HeaderName| {
            if !list.contains(name) {
                list.push(name.clone());
            }
        };
        match self {
            LogFilter::Header(matcher) => match matcher.header() {
                Some(name) => want(&mut capture.request_headers, name),
                None => capture.request_line = true,
            },
            LogFilter::GrpcStatus { .. } => grpc_status::capture(capture),
            LogFilter::Share { .. } => want(&mut capture.request_headers, &REQUEST_ID),
            LogFilter::Expression(expression) => expression.capture(capture),
            LogFilter::And(all) | LogFilter::Or(all) => all.iter().for_each(|f| f.capture(capture)),
            _ => {}
        }
    }

    pub(super) fn passes(&self, context: &FormatContext<'_>) -> bool {
        let (stream, state) = (context.stream, context.state);
        match self {
            LogFilter::StatusCode(op, code) => {
                compare(*op, u64::from(state.response.code.unwrap_or(0)), *code)
            }
            LogFilter::Duration(op, limit) => {
                let millis = context
                    .end
                    .saturating_duration_since(stream.start)
                    .as_millis();
                compare(*op, u64::try_from(millis).unwrap_or(u64::MAX), *limit)
            }
            LogFilter::Flags(flags) if flags.is_empty() => !state.flags.is_empty(),
            LogFilter::Flags(flags) => state.flags.intersects(*flags),
            LogFilter::Header(matcher) => matcher.matches(context),
            LogFilter::GrpcStatus { statuses, exclude } => {
                let status = grpc_status(context).unwrap_or(2);
                statuses.iter().any(|one| i64::from(*one) == status) != *exclude
            }
            LogFilter::Metadata { matcher, missing } => match matcher.is_there(&state.metadata) {
                true => matcher.matches(&state.metadata),
                false => *missing,
            },
            LogFilter::LogType { types, exclude } => {
                let own = match stream.protocol {
                    Protocol::Tcp => AccessLogType::TcpConnectionEnd,
                    _ => AccessLogType::DownstreamEnd,
                };
                types.contains(&own) != *exclude
            }
            LogFilter::Share { share, independent } => {
                let id = (!independent).then(|| number_of_id(context)).flatten();
                share.applies(id.unwrap_or_else(|| fastrand::u64(..)))
            }
            LogFilter::Expression(expression) => expression.is_true(context),
            LogFilter::And(all) => all.iter().all(|f| f.passes(context)),
            LogFilter::Or(any) => any.iter().any(|f| f.passes(context)),
            LogFilter::Always => true,
        }
    }
}

/// The first part of a UUID: what Envoy samples by.
fn number_of_id(context: &FormatContext<'_>) -> Option<u64> {
    let id = context.request_header(&REQUEST_ID)?.to_str().ok()?;
    let digits = id.get(..8).filter(|_| id.len() == 36)?;
    let all = digits.bytes().all(|c| c.is_ascii_hexdigit());
    u64::from_str_radix(digits, 16).ok().filter(|_| all)
}

fn filter(proto: &AccessLogFilter, depth: usize) -> Result<LogFilter, Refusal> {
    if depth > MAX_DEPTH {
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
            LogFilter::StatusCode(op, value)
        }
        FilterSpecifier::DurationFilter(f) => {
            let (op, value) = comparison(f.comparison.as_ref())?;
            LogFilter::Duration(op, value)
        }
        FilterSpecifier::ResponseFlagFilter(f) => flags(f)?,
        FilterSpecifier::AndFilter(f) => LogFilter::And(list(&f.filters)?),
        FilterSpecifier::OrFilter(f) => LogFilter::Or(list(&f.filters)?),
        // Nothing is a health check here: no filter marks one.
        FilterSpecifier::NotHealthCheckFilter(_) => LogFilter::Always,
        FilterSpecifier::HeaderFilter(f) => {
            let header = f.header.as_ref();
            let header = header.ok_or_else(|| Refusal::missing("filter.header_filter.header"))?;
            let matcher = HeaderMatcher::from_proto(header);
            LogFilter::Header(matcher.map_err(|e| e.within("filter.header_filter.header"))?)
        }
        FilterSpecifier::GrpcStatusFilter(f) => grpc(f),
        FilterSpecifier::MetadataFilter(f) => {
            metadata(f).map_err(|e| e.within("filter.metadata_filter"))?
        }
        FilterSpecifier::LogTypeFilter(f) => log_types(f)?,
        FilterSpecifier::RuntimeFilter(f) => {
            share(f).map_err(|e| e.within("filter.runtime_filter"))?
        }
        FilterSpecifier::ExtensionFilter(f) => {
            extension(f).map_err(|e| e.within("filter.extension_filter"))?
        }
        FilterSpecifier::TraceableFilter(_) => {
            return Err(Refusal::unsupported("filter.traceable_filter"));
        }
    })
}

fn flags(proto: &ResponseFlagFilter) -> Result<LogFilter, Refusal> {
    let mut flags = ResponseFlags::default();
    for name in &proto.flags {
        let unknown = || {
            let reason = format!("unknown flag {name}");
            Refusal::new("filter.response_flag_filter", reason)
        };
        flags.insert(ResponseFlags::from_short_name(name).ok_or_else(unknown)?);
    }
    Ok(LogFilter::Flags(flags))
}

fn grpc(proto: &GrpcStatusFilter) -> LogFilter {
    LogFilter::GrpcStatus {
        statuses: proto.statuses.as_slice().into(),
        exclude: proto.exclude,
    }
}

fn metadata(proto: &MetadataFilter) -> Result<LogFilter, Refusal> {
    let matcher = proto.matcher.as_ref();
    let matcher = matcher.ok_or_else(|| Refusal::missing("matcher"))?;
    if matcher.invert {
        // Envoy ignores it here, which nobody can want who sets it.
        return Err(Refusal::unsupported("matcher.invert"));
    }
    Ok(LogFilter::Metadata {
        matcher: Box::new(MetadataMatcher::from_proto(matcher).map_err(|e| e.within("matcher"))?),
        missing: proto.match_if_key_not_found.is_none_or(|v| v.value),
    })
}

fn log_types(proto: &LogTypeFilter) -> Result<LogFilter, Refusal> {
    let known = |value: &i32| {
        AccessLogType::try_from(*value).map_err(|_| {
            let reason = format!("unknown value {value}");
            Refusal::new("filter.log_type_filter.types", reason)
        })
    };
    Ok(LogFilter::LogType {
        types: proto.types.iter().map(known).collect::<Result<_, _>>()?,
        exclude: proto.exclude,
    })
}

fn share(proto: &RuntimeFilter) -> Result<LogFilter, Refusal> {
    let percent = proto.percent_sampled.as_ref();
    let share = percent.map_or(Ok(Fraction::NONE), Fraction::from_proto);
    Ok(LogFilter::Share {
        share: share.map_err(|e| e.within("percent_sampled"))?,
        independent: proto.use_independent_randomness,
    })
}

fn extension(proto: &ExtensionFilter) -> Result<LogFilter, Refusal> {
    let Some(extension_filter::ConfigType::TypedConfig(any)) = &proto.config_type else {
        return Err(Refusal::missing("typed_config"));
    };
    if any.type_url != EXPRESSION {
        return Err(Refusal::unsupported(any.type_url.clone()));
    }
    let filter: ExpressionFilter = coverage::decode(&any.value, &EXPRESSION_FILTER)?;
    Ok(LogFilter::Expression(Box::new(Expression::parse(
        &filter.expression,
    )?)))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Instant, SystemTime};

    use envoy_types::pb::envoy::config::accesslog::v3::HeaderFilter;
    use envoy_types::pb::envoy::config::route::v3::HeaderMatcher as HeaderMatcherProto;
    use envoy_types::pb::envoy::r#type::matcher::v3::MetadataMatcher as MetadataMatcherProto;
    use envoy_types::pb::envoy::r#type::matcher::v3::ValueMatcher;
    use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::{
        PathSegment, path_segment::Segment,
    };
    use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern;
    use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
    use envoy_types::pb::google::protobuf::{Any, BoolValue};
    use http::HeaderValue;
    use prost::Message as _;

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::stream_info::{StreamInfo, StreamState};

    fn filter(specifier: FilterSpecifier) -> Result<LogFilter, Refusal> {
        LogFilter::from_proto(&AccessLogFilter {
            filter_specifier: Some(specifier),
        })
    }

    fn passes(specifier: FilterSpecifier, change: impl FnOnce(&mut StreamState)) -> bool {
        let (address, start) = (([127, 0, 0, 1], 80).into(), Instant::now());
        let connection = Connection::new(address, address, start);
        let time = SystemTime::UNIX_EPOCH;
        let stream = StreamInfo::new(connection.into(), Protocol::Http11, start, time);
        change(&mut stream.state());
        let state = stream.state();
        filter(specifier)
            .unwrap()
            .passes(&FormatContext::recorded(&stream, &state, start))
    }

    fn with_header(state: &mut StreamState, name: &'static str, value: &'static str) {
        let header = (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        state.request.headers.push(header);
    }

    #[test]
    fn headers_and_the_first_line() {
        let of = |name: &str| {
            FilterSpecifier::HeaderFilter(HeaderFilter {
                header: Some(HeaderMatcherProto {
                    name: name.into(),
                    ..HeaderMatcherProto::default()
                }),
            })
        };
        assert!(passes(of("x-a"), |state| with_header(state, "x-a", "1")));
        assert!(!passes(of("x-b"), |state| with_header(state, "x-a", "1")));
        assert!(passes(of(":method"), |state| {
            state.request.method = Some(http::Method::GET);
        }));
        assert!(!passes(of(":path"), |_| ()), "a TCP stream has none");
        let mut capture = Capture::default();
        filter(of("X-A")).unwrap().capture(&mut capture);
        assert_eq!(capture.request_headers, ["x-a"]);
    }

    #[test]
    fn a_grpc_status_is_what_http_says_where_there_is_none() {
        let of = |status, exclude| {
            FilterSpecifier::GrpcStatusFilter(GrpcStatusFilter {
                statuses: vec![status],
                exclude,
            })
        };
        let not_found = |state: &mut StreamState| state.response.code = Some(404);
        assert!(passes(of(12, false), not_found));
        assert!(!passes(of(12, true), not_found));
        assert!(passes(of(2, false), |_| ()));
        let trailer = |state: &mut StreamState| {
            let header = (
                HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            );
            state.response.trailers.push(header);
        };
        assert!(passes(of(0, false), trailer));
    }

    #[test]
    fn metadata_and_what_has_none() {
        let of = |missing: Option<bool>| {
            FilterSpecifier::MetadataFilter(MetadataFilter {
                matcher: Some(MetadataMatcherProto {
                    filter: "ns".into(),
                    path: vec![PathSegment {
                        segment: Some(Segment::Key("k".into())),
                    }],
                    value: Some(ValueMatcher {
                        match_pattern: Some(MatchPattern::BoolMatch(true)),
                    }),
                    invert: false,
                }),
                match_if_key_not_found: missing.map(|value| BoolValue { value }),
            })
        };
        let set = |value: bool| {
            move |state: &mut StreamState| state.metadata.set("ns", "k", value.into())
        };
        assert!(passes(of(None), set(true)));
        assert!(!passes(of(None), set(false)));
        assert!(passes(of(None), |_| ()));
        assert!(!passes(of(Some(false)), |_| ()));
    }

    #[test]
    fn types_and_shares() {
        let of = |kind, exclude| {
            FilterSpecifier::LogTypeFilter(LogTypeFilter {
                types: vec![i32::from(kind)],
                exclude,
            })
        };
        assert!(passes(of(AccessLogType::DownstreamEnd, false), |_| ()));
        assert!(passes(of(AccessLogType::TcpConnectionEnd, true), |_| ()));
        let share = FilterSpecifier::RuntimeFilter(RuntimeFilter {
            runtime_key: "k".into(),
            percent_sampled: Some(FractionalPercent {
                numerator: 50,
                denominator: 0,
            }),
            use_independent_randomness: false,
        });
        for (id, passed) in [
            ("00000031-0000-4000-8000-000000000000", true),
            ("00000032-0000-4000-8000-000000000000", false),
        ] {
            let found = passes(share.clone(), |state| {
                with_header(state, "x-request-id", id)
            });
            assert_eq!(found, passed, "{id}");
        }
    }

    #[test]
    fn expressions() {
        let of = |expression: &str, type_url: &str| {
            let config = ExpressionFilter {
                expression: expression.into(),
                ..ExpressionFilter::default()
            };
            FilterSpecifier::ExtensionFilter(ExtensionFilter {
                name: "any".into(),
                config_type: Some(extension_filter::ConfigType::TypedConfig(Any {
                    type_url: type_url.into(),
                    value: config.encode_to_vec(),
                })),
            })
        };
        let failed = "response.code >= 400 || request.headers['x-log'] == 'yes'";
        let code = |code| move |state: &mut StreamState| state.response.code = Some(code);
        assert!(passes(of(failed, EXPRESSION), code(503)));
        assert!(!passes(of(failed, EXPRESSION), code(200)));
        assert!(!passes(of("1", EXPRESSION), |_| ()), "no bool");
        let refusal = filter(of("request.nope == 1", EXPRESSION)).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "filter.extension_filter.expression: \"request.nope == 1\": request.nope is no attribute that is known here (at 0)"
        );
        assert!(filter(of("true", "type.googleapis.com/other.Filter")).is_err());
    }
}
