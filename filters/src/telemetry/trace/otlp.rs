//! OTLP, OpenTelemetry's protocol: the messages of traces, as far as spans of ours fill them, and spans as such messages.

use envoy_types::pb::opentelemetry::proto::common::v1::any_value::Value;
use envoy_types::pb::opentelemetry::proto::common::v1::{AnyValue, InstrumentationScope, KeyValue};

use crate::telemetry::trace::span::{Kind, Span};

/// `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// `opentelemetry.proto.collector.trace.v1.ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportTraceServiceResponse {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<ExportTracePartialSuccess>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportTracePartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// `opentelemetry.proto.trace.v1.ResourceSpans`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// `opentelemetry.proto.resource.v1.Resource`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<InstrumentationScope>,
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<OtlpSpan>,
}

/// `opentelemetry.proto.trace.v1.Span`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OtlpSpan {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
    /// 2 is a server's, 3 a client's.
    #[prost(int32, tag = "6")]
    pub kind: i32,
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    #[prost(string, tag = "2")]
    pub message: String,
    /// 2 is an error.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

const ERROR: i32 = 2;

/// What stands around all spans of a tracer.
#[derive(Clone, Debug)]
pub(crate) struct Around {
    pub(crate) resource: Resource,
    pub(crate) scope: Option<InstrumentationScope>,
}

impl Around {
    pub(crate) fn message(&self, spans: &[Span]) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: self.scope.clone(),
                    spans: spans.iter().map(otlp).collect(),
                }],
            }],
        }
    }
}

pub(crate) fn attribute(key: &str, value: impl Into<String>) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.into())),
        }),
        ..KeyValue::default()
    }
}

fn otlp(span: &Span) -> OtlpSpan {
    OtlpSpan {
        trace_id: span.trace_id.to_be_bytes().to_vec(),
        span_id: span.id.to_be_bytes().to_vec(),
        trace_state: span.state.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: span
            .parent
            .map_or_else(Vec::new, |parent| parent.to_be_bytes().to_vec()),
        name: span.name.to_string(),
        kind: match span.kind {
            Kind::Server => 2,
            Kind::Client => 3,
        },
        start_time_unix_nano: span.start,
        end_time_unix_nano: span.end,
        attributes: span
            .tags
            .iter()
            .map(|(key, value)| attribute(key, value.as_str()))
            .collect(),
        status: span.is_error().then(|| Status {
            code: ERROR,
            ..Status::default()
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_span_is_the_same_when_it_is_read() {
        let span = |kind, code: &str| Span {
            trace_id: 0x0af7_6519,
            id: 7,
            parent: Some(6),
            state: Some("a=b".into()),
            name: "reviews:9080/*".into(),
            kind,
            start: 1,
            end: 2,
            tags: vec![("http.status_code".into(), code.to_owned())],
            local: None,
        };
        let around = Around {
            resource: Resource {
                attributes: vec![attribute("service.name", "waypoint.default")],
            },
            scope: None,
        };
        let spans = [span(Kind::Server, "404"), span(Kind::Client, "404")];
        let bytes = around.message(&spans).encode_to_vec();
        let read = ExportTraceServiceRequest::decode(bytes.as_slice()).unwrap();
        let of_resource = &read.resource_spans[0];
        let [server, client] = &of_resource.scope_spans[0].spans[..] else {
            panic!("two spans");
        };
        assert_eq!(server.trace_id.len(), 16);
        assert_eq!((server.kind, client.kind), (2, 3));
        assert_eq!(
            (&server.status, client.status.as_ref().unwrap().code),
            (&None, ERROR)
        );
        assert_eq!(server.parent_span_id, 6u64.to_be_bytes());
    }
}
