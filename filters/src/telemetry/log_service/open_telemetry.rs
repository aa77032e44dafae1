//! `envoy.access_loggers.open_telemetry`: a stream as a log record of OTLP, sent over gRPC.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::CommonGrpcAccessLogConfig;
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::opentelemetry::proto::common::v1::any_value::Value;
use envoy_types::pb::opentelemetry::proto::common::v1::{
    AnyValue, ArrayValue, KeyValue, KeyValueList,
};
use prost::Message as _;

use crate::callout::grpc_service::GrpcService;
use crate::format::substitution::FORMATTER;
use crate::format::{Complain, Format, FormatContext};
use crate::stream::stream_info::Capture;
use crate::telemetry::export::exporter::{Collector, Outcome, Sending};
use crate::telemetry::log_service::access_log_service::{COMMON_CONFIG, grpc};
use crate::telemetry::log_service::otlp_logs::{
    ExportLogsServiceRequest, ExportLogsServiceResponse, LogRecord, ResourceLogs, ScopeLogs,
};
use crate::telemetry::log_service::services::{Built, Entry, LogService, ServiceContext, limits};
use crate::telemetry::trace::otlp::{Resource, attribute};
use crate::xds::coverage::{OWN_COUNTERS, Table, harmless, honoured};
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
    Constant(AnyValue),
    List(Vec<Template>),
    Map(Vec<(String, Template)>),
}

/// A collector of OTLP.
#[derive(Debug)]
struct Logs {
    resource: Resource,
    grpc: GrpcService,
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
                    resource: resource(proto, common, context),
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
        let trace = context.state.trace.as_ref();
        let start = context.stream.start_time.duration_since(UNIX_EPOCH);
        let record = LogRecord {
            time_unix_nano: start.map_or(0, |time| time.as_nanos() as u64),
            body: self.body.as_ref().map(|body| body.value(context)),
            attributes: pairs(&self.attributes, context),
            trace_id: trace.map_or_else(Vec::new, |trace| trace.trace_id.to_be_bytes().to_vec()),
            span_id: trace.map_or_else(Vec::new, |trace| trace.span_id.to_be_bytes().to_vec()),
        };
        self.service.queue.put(Entry(record.encode_to_vec().into()));
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
            _ => Template::Constant(value.clone()),
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

    fn value(&self, context: &FormatContext<'_>) -> AnyValue {
        let value = match self {
            Template::Constant(value) => return value.clone(),
            Template::Format(format) => {
                let mut text = Vec::new();
                format.write(context, &mut text);
                let text = String::from_utf8(text);
                let text = text.unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into());
                Value::StringValue(text)
            }
            Template::List(list) => Value::ArrayValue(ArrayValue {
                values: list.iter().map(|value| value.value(context)).collect(),
            }),
            Template::Map(map) => Value::KvlistValue(KeyValueList {
                values: pairs(map, context),
            }),
        };
        AnyValue { value: Some(value) }
    }
}

fn pairs(map: &[(String, Template)], context: &FormatContext<'_>) -> Vec<KeyValue> {
    let pair = |(key, template): &(String, Template)| KeyValue {
        key: key.clone(),
        value: Some(template.value(context)),
        ..KeyValue::default()
    };
    map.iter().map(pair).collect()
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
    async fn put(&self, entries: &[Entry]) -> Result<Outcome, String> {
        let message = ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(self.resource.clone()),
                scope_logs: vec![ScopeLogs {
                    log_records: entries.iter().map(|entry| entry.0.clone()).collect(),
                }],
            }],
        };
        let answer = self.grpc.tell(EXPORT, &message).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let answer = answer.map(ExportLogsServiceResponse::decode);
        let answer = answer.and_then(Result::ok).unwrap_or_default();
        let part = answer.partial_success.unwrap_or_default();
        Ok(Outcome {
            rejected: u64::try_from(part.rejected_log_records).unwrap_or(0),
        })
    }
}
