//! `envoy.access_loggers.open_telemetry`: a stream as a log record of OTLP, sent over gRPC.
//!
//! A record is written as it is sent, for it is made with every request: the numbers are those of the protocol's fields.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::CommonGrpcAccessLogConfig;
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::opentelemetry::proto::common::v1::any_value::Value;
use envoy_types::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue};
use prost::Message as _;
use prost::bytes::Bytes;

use crate::callout::grpc_service::{Framed, GrpcService};
use crate::format::substitution::FORMATTER;
use crate::format::{Complain, Format, FormatContext};
use crate::stream::stream_info::Capture;
use crate::telemetry::export::exporter::{Collector, Outcome, Sending};
use crate::telemetry::log_service::access_log_service::{COMMON_CONFIG, grpc};
use crate::telemetry::log_service::otlp_logs::ExportLogsServiceResponse;
use crate::telemetry::log_service::services::{
    Built, Entry, LogService, ServiceContext, limits, room,
};
use crate::telemetry::trace::otlp::{Resource, attribute};
use crate::xds::coverage::{OWN_COUNTERS, Table, harmless, honoured};
use crate::xds::encoding::Fields;
use crate::xds::rejected::Refusal;

pub(crate) static OPEN_TELEMETRY: Table = Table {
    name: "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
    fields: &[
        honoured(1, "common_config").of(&COMMON_CONFIG),
        honoured(2, "body").of(&ANY_VALUE),
        honoured(3, "attributes").of(&KEY_VALUES),
        honoured(4, "resource_attributes").of(&KEY_VALUES),
        honoured(5, "disable_builtin_labels"),
        harmless(6, "stat_prefix", OWN_COUNTERS),
        honoured(7, "formatters").named(1).of(&FORMATTER),
    ],
    refused: "8 http_service, 9 grpc_service, 10 log_name, 11 buffer_flush_interval, 12 buffer_size_bytes, \
              13 filter_state_objects_to_log, 14 custom_tags, 15 resource_detectors",
    required: &[],
};

static ANY_VALUE: Table = Table {
    name: "opentelemetry.proto.common.v1.AnyValue",
    fields: &[
        honoured(1, "string_value"),
        honoured(2, "bool_value"),
        honoured(3, "int_value"),
        honoured(4, "double_value"),
        honoured(5, "array_value").of(&ARRAY_VALUE),
        honoured(6, "kvlist_value").of(&KEY_VALUES),
        honoured(7, "bytes_value"),
    ],
    refused: "8 string_value_strindex",
    required: &[],
};

static ARRAY_VALUE: Table = Table {
    name: "opentelemetry.proto.common.v1.ArrayValue",
    fields: &[honoured(1, "values").list().of(&ANY_VALUE)],
    refused: "",
    required: &[],
};

static KEY_VALUES: Table = Table {
    name: "opentelemetry.proto.common.v1.KeyValueList",
    fields: &[honoured(1, "values").named(1).of(&KEY_VALUE)],
    refused: "",
    required: &[],
};

static KEY_VALUE: Table = Table {
    name: "opentelemetry.proto.common.v1.KeyValue",
    fields: &[honoured(1, "key"), honoured(2, "value").of(&ANY_VALUE)],
    refused: "3 key_strindex",
    required: &[],
};

const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// Writes a record for each stream.
#[derive(Debug)]
pub(crate) struct OpenTelemetryLog {
    body: Option<Template>,
    attributes: Vec<(String, Template)>,
    service: Arc<LogService>,
}

/// A value whose texts are formats.
#[derive(Debug)]
enum Template {
    Format(Format),
    /// An `AnyValue`, encoded.
    Constant(Vec<u8>),
    List(Vec<Template>),
    Map(Vec<(String, Template)>),
}

/// A collector of OTLP.
#[derive(Debug)]
struct Logs {
    /// A `Resource`, encoded.
    resource: Vec<u8>,
    grpc: GrpcService,
}

thread_local! {
    /// A record is put together here, so that it is allocated once and as long as it is.
    static RECORD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl OpenTelemetryLog {
    pub(crate) fn from_proto(
        any: &Any,
        proto: &OpenTelemetryAccessLogConfig,
        context: &ServiceContext<'_>,
        complain: Complain<'_>,
    ) -> Result<OpenTelemetryLog, Refusal> {
        let body = proto.body.as_ref();
        let body = body.map(|body| Template::parse(body, complain));
        let attributes = proto.attributes.iter().flat_map(|all| &all.values);
        let attributes = attributes.map(|one| {
            let value = one.value.clone().unwrap_or_default();
            Ok((one.key.clone(), Template::parse(&value, complain)?))
        });
        let attributes = attributes.collect::<Result<_, Refusal>>()?;
        let missing = || Refusal::missing("common_config");
        let common = proto.common_config.as_ref().ok_or_else(missing)?;
        let service = context.services.get(&any.value, || {
            let grpc = grpc(common, context).map_err(|e| e.within("common_config"))?;
            Ok(Built {
                name: grpc.cluster.as_str().into(),
                limits: limits(common).map_err(|e| e.within("common_config"))?,
                collector: Box::new(Logs {
                    resource: resource(proto, common, context).encode_to_vec(),
                    grpc,
                }),
            })
        })?;
        Ok(OpenTelemetryLog {
            body: body.transpose()?,
            attributes,
            service,
        })
    }

    pub(crate) fn capture(&self) -> Capture {
        let mut capture = Capture::default();
        let values = self.attributes.iter().map(|(_, value)| value);
        let all = self.body.iter().chain(values);
        all.for_each(|value| value.capture(&mut capture));
        capture
    }

    pub(crate) fn record(&self, context: &FormatContext<'_>) {
        RECORD.with_borrow_mut(|record| {
            record.clear();
            self.write(context, &mut Fields(record));
            let entry = Entry(Bytes::copy_from_slice(record));
            self.service.queue.put(entry);
        });
    }

    /// A `LogRecord`.
    fn write(&self, context: &FormatContext<'_>, record: &mut Fields<'_>) {
        let start = context.stream.start_time.duration_since(UNIX_EPOCH);
        record.fixed64(1, start.map_or(0, |time| time.as_nanos() as u64));
        if let Some(body) = &self.body {
            record.message(5, |value| body.write(context, value));
        }
        write_pairs(6, &self.attributes, context, record);
        if let Some(trace) = &context.state.trace {
            record.always(9, trace.trace_id.to_be_bytes());
            record.always(10, trace.span_id.to_be_bytes());
        }
    }
}

impl Template {
    fn parse(value: &AnyValue, complain: Complain<'_>) -> Result<Template, Refusal> {
        let pair = |one: &KeyValue, complain: Complain<'_>| {
            let value = one.value.clone().unwrap_or_default();
            Ok((one.key.clone(), Template::parse(&value, complain)?))
        };
        Ok(match &value.value {
            Some(Value::StringValue(text)) => Template::Format(Format::parse_with(text, complain)?),
            Some(Value::ArrayValue(list)) => {
                let values = list.values.iter();
                let values = values.map(|value| Template::parse(value, complain));
                Template::List(values.collect::<Result<_, Refusal>>()?)
            }
            Some(Value::KvlistValue(map)) => {
                let pairs = map.values.iter().map(|one| pair(one, complain));
                Template::Map(pairs.collect::<Result<_, Refusal>>()?)
            }
            _ => Template::Constant(value.encode_to_vec()),
        })
    }

    fn capture(&self, capture: &mut Capture) {
        match self {
            Template::Format(format) => capture.merge(&format.capture()),
            Template::Constant(_) => {}
            Template::List(list) => list.iter().for_each(|value| value.capture(capture)),
            Template::Map(map) => map.iter().for_each(|(_, value)| value.capture(capture)),
        }
    }

    /// An `AnyValue`.
    fn write(&self, context: &FormatContext<'_>, value: &mut Fields<'_>) {
        match self {
            Template::Constant(encoded) => value.0.extend_from_slice(encoded),
            Template::Format(format) => value.message(1, |text| {
                let start = text.0.len();
                format.write(context, text.0);
                let written = text.0.get(start..).unwrap_or_default();
                if std::str::from_utf8(written).is_err() {
                    let lossy = String::from_utf8_lossy(written).into_owned();
                    text.0.truncate(start);
                    text.0.extend_from_slice(lossy.as_bytes());
                }
            }),
            Template::List(list) => value.message(5, |values| {
                for one in list {
                    values.message(1, |value| one.write(context, value));
                }
            }),
            Template::Map(map) => {
                value.message(6, |pairs| write_pairs(1, map, context, pairs));
            }
        }
    }
}

/// Each a `KeyValue`.
fn write_pairs(
    field: u32,
    map: &[(String, Template)],
    context: &FormatContext<'_>,
    fields: &mut Fields<'_>,
) {
    for (key, template) in map {
        fields.message(field, |pair| {
            pair.bytes(1, key);
            pair.message(2, |value| template.write(context, value));
        });
    }
}

/// Whose logs they are: what the configuration says, and above it Envoy's own labels, unless they are off.
fn resource(
    proto: &OpenTelemetryAccessLogConfig,
    common: &CommonGrpcAccessLogConfig,
    context: &ServiceContext<'_>,
) -> Resource {
    let node = context.node;
    let mut attributes = Vec::new();
    if !proto.disable_builtin_labels {
        attributes.extend([
            attribute("log_name", common.log_name.as_str()),
            attribute("zone_name", ""),
            attribute("cluster_name", node.cluster.as_str()),
            attribute("node_name", node.id.as_str()),
        ]);
    }
    let said = proto.resource_attributes.iter().flat_map(|all| &all.values);
    for one in said {
        attributes.retain(|attribute| attribute.key != one.key);
        attributes.push(one.clone());
    }
    Resource { attributes }
}

impl Collector<Entry> for Logs {
    fn send<'a>(&'a self, entries: &'a [Entry]) -> Sending<'a> {
        Box::pin(self.put(entries))
    }
}

impl Logs {
    /// Sends an `ExportLogsServiceRequest`.
    async fn put(&self, entries: &[Entry]) -> Result<Outcome, String> {
        let message = Framed::of(room(entries), |message| {
            message.message(1, |logs| {
                logs.always(1, &self.resource);
                logs.message(2, |scope| {
                    for Entry(record) in entries {
                        scope.always(2, record);
                    }
                });
            });
        });
        let answer = self.grpc.tell(EXPORT, message).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let answer = answer.map(ExportLogsServiceResponse::decode);
        let answer = answer.and_then(Result::ok).unwrap_or_default();
        let part = answer.partial_success.unwrap_or_default();
        Ok(Outcome {
            rejected: u64::try_from(part.rejected_log_records).unwrap_or(0),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use envoy_types::pb::opentelemetry::proto::common::v1::{ArrayValue, KeyValueList};

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::stream_info::{Protocol, StreamInfo};
    use crate::telemetry::log_service::otlp_logs::LogRecord;

    fn any(value: Value) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    fn text(text: &str) -> AnyValue {
        any(Value::StringValue(text.to_owned()))
    }

    fn pair(key: &str, value: AnyValue) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(value),
            ..KeyValue::default()
        }
    }

    fn list(values: Vec<AnyValue>) -> AnyValue {
        any(Value::ArrayValue(ArrayValue { values }))
    }

    fn map(values: Vec<KeyValue>) -> AnyValue {
        any(Value::KvlistValue(KeyValueList { values }))
    }

    /// A template, and what a collector reads of it.
    fn read(template: &AnyValue) -> LogRecord {
        let address = ([10, 0, 0, 9], 999).into();
        let connection = Connection::new(address, address, Instant::now());
        let start = UNIX_EPOCH + Duration::from_millis(1_500);
        let stream = StreamInfo::new(connection.into(), Protocol::Http11, Instant::now(), start);
        let bytes = http::HeaderValue::from_bytes(b"a\xffb").unwrap();
        let header = ("x-bytes".parse().unwrap(), bytes);
        stream.state().request.headers.push(header);
        let state = stream.state();
        let context = FormatContext::recorded(&stream, &state, stream.start);
        let template = Template::parse(template, &mut Err).unwrap();
        let mut out = Vec::new();
        let mut record = Fields(&mut out);
        record.fixed64(1, 1_500_000_000);
        record.message(5, |value| template.write(&context, value));
        write_pairs(6, &[("k".to_owned(), template)], &context, &mut record);
        LogRecord::decode(&*out).unwrap()
    }

    #[test]
    fn values_are_read_as_they_were_meant() {
        let long = "x".repeat(300);
        for (template, told) in [
            (
                text("%PROTOCOL%:%REQ(x-bytes)%"),
                text("HTTP/1.1:a\u{fffd}b"),
            ),
            (text(""), text("")),
            (text(&long), text(&long)),
            (any(Value::IntValue(-3)), any(Value::IntValue(-3))),
            (any(Value::BoolValue(false)), any(Value::BoolValue(false))),
            (AnyValue::default(), AnyValue::default()),
            (
                list(vec![text("%PROTOCOL%"), list(vec![]), text(&long)]),
                list(vec![text("HTTP/1.1"), list(vec![]), text(&long)]),
            ),
            (
                map(vec![pair("a", text("%ROUTE_NAME%")), pair("", map(vec![]))]),
                map(vec![pair("a", text("-")), pair("", map(vec![]))]),
            ),
        ] {
            let record = read(&template);
            assert_eq!(record.time_unix_nano, 1_500_000_000);
            assert_eq!(record.body, Some(told.clone()));
            assert_eq!(record.attributes, [pair("k", told)]);
        }
    }
}
