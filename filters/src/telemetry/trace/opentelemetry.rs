//! `envoy.tracers.opentelemetry`: spans as OTLP, over gRPC or HTTP, and traces in `traceparent`.

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::trace::v3::OpenTelemetryConfig;
use envoy_types::pb::google::protobuf::{BoolValue, Duration as DurationProto};
use envoy_types::pb::opentelemetry::proto::common::v1::{InstrumentationScope, KeyValue};
use prost::Message as _;

use crate::callout::Callout;
use crate::callout::grpc_service::{Framed, GRPC_SERVICE, GrpcService, nobodys_stream};
use crate::stream::request_trace::Propagation;
use crate::telemetry::export::exporter::{Collector, Outcome, Sending};
use crate::telemetry::trace::context::Ids;
use crate::telemetry::trace::http_collector::{HTTP_SERVICE, HttpCollector};
use crate::telemetry::trace::otlp::{Around, ExportTraceServiceResponse, Resource, attribute};
use crate::telemetry::trace::providers::Tracer;
use crate::telemetry::trace::span::Span;
use crate::xds::coverage::well_known::{BOOL_VALUE, UINT32_VALUE};
use crate::xds::coverage::{Table, harmless, honoured, required};
use crate::xds::rejected::Refusal;

pub(crate) static OPENTELEMETRY: Table = Table {
    name: "envoy.config.trace.v3.OpenTelemetryConfig",
    fields: &[
        honoured(1, "grpc_service").of(&GRPC_SERVICE),
        honoured(2, "service_name"),
        honoured(3, "http_service").of(&HTTP_SERVICE),
        honoured(4, "resource_detectors").named(1).of(&DETECTOR),
        harmless(
            6,
            "max_cache_size",
            "spans that wait for a collector have a bound, which is larger than Envoy's",
        )
        .of(&UINT32_VALUE),
        honoured(7, "set_telemetry_sdk_resource_attributes").of(&BOOL_VALUE),
        honoured(8, "set_service_name_resource_attribute").of(&BOOL_VALUE),
        honoured(9, "set_instrumentation_scope").of(&BOOL_VALUE),
    ],
    refused: "5 sampler, 10 exporter",
    required: &[],
};

static DETECTOR: Table = Table {
    name: "envoy.config.core.v3.TypedExtensionConfig",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "typed_config").any(&[&[&ENVIRONMENT_DETECTOR]]),
    ],
    refused: "",
    required: &[required("typed_config", &[2])],
};

static ENVIRONMENT_DETECTOR: Table = Table {
    name: "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig",
    fields: &[],
    refused: "",
    required: &[],
};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const PROTOBUF: &str = "application/x-protobuf";
/// How long a collector may take where nothing is said.
const TIME: i64 = 10;

/// A collector of OTLP.
#[derive(Debug)]
pub(crate) struct Otlp {
    around: Around,
    to: To,
}

#[derive(Debug)]
enum To {
    Grpc(GrpcService),
    Http(HttpCollector),
}

pub(crate) fn tracer(
    proto: &OpenTelemetryConfig,
    cluster: &dyn Fn(&str) -> Callout,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Tracer, Refusal> {
    let to = match (&proto.grpc_service, &proto.http_service) {
        (Some(grpc), None) => {
            let mut grpc = grpc.clone();
            grpc.timeout.get_or_insert(DurationProto {
                seconds: TIME,
                nanos: 0,
            });
            let service = GrpcService::from_proto(&grpc, cluster);
            To::Grpc(service.map_err(|e| e.within("grpc_service"))?)
        }
        (None, Some(http)) => {
            let collector = HttpCollector::from_proto(http, PROTOBUF, cluster);
            To::Http(collector.map_err(|e| e.within("http_service"))?)
        }
        (Some(_), Some(_)) => {
            return Err(Refusal::new("http_service", "grpc_service is set, too"));
        }
        (None, None) => return Err(Refusal::missing("grpc_service")),
    };
    let name = match &to {
        To::Grpc(grpc) => grpc.cluster.as_str().into(),
        To::Http(http) => http.cluster.clone(),
    };
    let otlp = Otlp {
        around: around(proto, environment),
        to,
    };
    Ok(Tracer {
        name,
        collector: Box::new(otlp),
        ids: Ids::OpenTelemetry,
        propagation: Propagation::W3c,
    })
}

fn around(proto: &OpenTelemetryConfig, environment: &dyn Fn(&str) -> Option<String>) -> Around {
    let wanted = |value: Option<&BoolValue>| value.is_none_or(|value| value.value);
    let mut attributes = Vec::new();
    if wanted(proto.set_service_name_resource_attribute.as_ref()) {
        let name = match proto.service_name.as_str() {
            "" => "unknown_service:envoy",
            name => name,
        };
        attributes.push(attribute("service.name", name));
    }
    if wanted(proto.set_telemetry_sdk_resource_attributes.as_ref()) {
        attributes.push(attribute("telemetry.sdk.language", "rust"));
        attributes.push(attribute("telemetry.sdk.name", "waypoint"));
        attributes.push(attribute(
            "telemetry.sdk.version",
            env!("CARGO_PKG_VERSION"),
        ));
    }
    let detects = |detector: &TypedExtensionConfig| {
        let config = detector.typed_config.as_ref();
        config.is_some_and(|any| ENVIRONMENT_DETECTOR.has_type_url(&any.type_url))
    };
    if proto.resource_detectors.iter().any(detects) {
        let said = environment("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        for (key, value) in said.split(',').filter_map(|pair| pair.split_once('=')) {
            add(&mut attributes, key.trim(), value.trim());
        }
    }
    let scope = InstrumentationScope {
        name: "waypoint".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    Around {
        resource: Resource { attributes },
        scope: wanted(proto.set_instrumentation_scope.as_ref()).then_some(scope),
    }
}

/// What the environment says stands in place of what is there.
fn add(attributes: &mut Vec<KeyValue>, key: &str, value: &str) {
    attributes.retain(|attribute| attribute.key != key);
    if !key.is_empty() {
        attributes.push(attribute(key, value));
    }
}

impl Collector<Span> for Otlp {
    fn send<'a>(&'a self, spans: &'a [Span]) -> Sending<'a> {
        Box::pin(self.put(spans))
    }
}

impl Otlp {
    async fn put(&self, spans: &[Span]) -> Result<Outcome, String> {
        let message = self.around.message(spans);
        let answer: ExportTraceServiceResponse = match &self.to {
            To::Grpc(grpc) => grpc
                .call(
                    EXPORT,
                    Framed::of_message(&message),
                    &nobodys_stream(),
                    None,
                )
                .await
                .map_err(|error| error.to_string())?,
            To::Http(http) => {
                let body = http.post(message.encode_to_vec()).await;
                // What a collector that took them says besides is its own affair.
                let body = body.map_err(|error| error.to_string())?;
                ExportTraceServiceResponse::decode(body).unwrap_or_default()
            }
        };
        let rejected = answer.partial_success.map_or(0, |part| part.rejected_spans);
        Ok(Outcome {
            rejected: u64::try_from(rejected).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Any;

    use super::*;

    #[test]
    fn the_environment_adds_to_what_is_said_of_the_service() {
        let proto = OpenTelemetryConfig {
            service_name: "waypoint.default".into(),
            set_telemetry_sdk_resource_attributes: Some(BoolValue { value: false }),
            set_instrumentation_scope: Some(BoolValue { value: false }),
            resource_detectors: vec![TypedExtensionConfig {
                name: "environment".into(),
                typed_config: Some(Any {
                    type_url: format!("type.googleapis.com/{}", ENVIRONMENT_DETECTOR.name),
                    value: Vec::new(),
                }),
            }],
            ..OpenTelemetryConfig::default()
        };
        let environment = |_: &str| Some("a=b, service.name=other,nonsense".to_owned());
        let around = around(&proto, &environment);
        let keys: Vec<_> = around.resource.attributes.iter().map(|a| &*a.key).collect();
        assert_eq!(keys, ["a", "service.name"]);
        assert!(around.scope.is_none());
    }
}
