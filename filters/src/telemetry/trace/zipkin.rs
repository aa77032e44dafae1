//! `envoy.tracers.zipkin`: spans as Zipkin's JSON (version 2), over HTTP, and traces in B3 headers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::trace::v3::ZipkinConfig;
use envoy_types::pb::envoy::config::trace::v3::zipkin_config::{
    CollectorEndpointVersion, TraceContextOption,
};
use serde_json::{Value, json};

use crate::callout::Callout;
use crate::stream::request_trace::Propagation;
use crate::telemetry::export::exporter::{Collector, Outcome, Sending};
use crate::telemetry::trace::b3::trace_text;
use crate::telemetry::trace::context::Ids;
use crate::telemetry::trace::http_collector::{HTTP_SERVICE, HttpCollector};
use crate::telemetry::trace::providers::Tracer;
use crate::telemetry::trace::span::{Kind, Span};
use crate::xds::coverage::well_known::BOOL_VALUE;
use crate::xds::coverage::{Table, honoured};
use crate::xds::rejected::Refusal;

pub(crate) static ZIPKIN: Table = Table {
    name: "envoy.config.trace.v3.ZipkinConfig",
    fields: &[
        honoured(1, "collector_cluster"),
        honoured(2, "collector_endpoint"),
        honoured(3, "trace_id_128bit"),
        honoured(4, "shared_span_context").of(&BOOL_VALUE),
        honoured(5, "collector_endpoint_version").only("HTTP_JSON"),
        honoured(6, "collector_hostname"),
        honoured(8, "trace_context_option"),
        honoured(9, "collector_service").of(&HTTP_SERVICE),
    ],
    refused: "7 split_spans_for_request, 10 timestamp_trace_ids",
    required: &[],
};

const JSON: &str = "application/json";
/// How long a collector may take where nothing is said; Envoy's.
const TIME: Duration = Duration::from_secs(5);

/// A collector of Zipkin's.
#[derive(Debug)]
pub(crate) struct Zipkin {
    to: HttpCollector,
    /// What spans say whose they are: the node's cluster.
    service: String,
}

pub(crate) fn tracer(
    proto: &ZipkinConfig,
    cluster: &dyn Fn(&str) -> Callout,
    service: &str,
) -> Result<Tracer, Refusal> {
    if proto.collector_endpoint_version != i32::from(CollectorEndpointVersion::HttpJson) {
        return Err(Refusal::unsupported("collector_endpoint_version"));
    }
    let to = match &proto.collector_service {
        Some(http) => HttpCollector::from_proto(http, JSON, cluster)
            .map_err(|e| e.within("collector_service"))?,
        None => {
            if proto.collector_cluster.is_empty() || proto.collector_endpoint.is_empty() {
                return Err(Refusal::missing("collector_service"));
            }
            let host = match proto.collector_hostname.as_str() {
                "" => proto.collector_cluster.replace(['|', '_'], "-"),
                host => host.to_owned(),
            };
            let (name, path) = (&proto.collector_cluster, &proto.collector_endpoint);
            HttpCollector::new(name, &host, path, JSON, TIME, cluster)?
        }
    };
    let propagation = match TraceContextOption::try_from(proto.trace_context_option) {
        Ok(TraceContextOption::UseB3) => Propagation::B3,
        Ok(TraceContextOption::UseB3WithW3cPropagation) => Propagation::B3AndW3c,
        Err(_) => return Err(Refusal::new("trace_context_option", "unknown value")),
    };
    Ok(Tracer {
        name: to.cluster.clone(),
        ids: Ids::Zipkin {
            bits_128: proto.trace_id_128bit,
            shared: proto.shared_span_context.is_none_or(|shared| shared.value),
        },
        propagation,
        collector: Box::new(Zipkin {
            to,
            service: service.to_owned(),
        }),
    })
}

impl Collector<Span> for Zipkin {
    fn send<'a>(&'a self, spans: &'a [Span]) -> Sending<'a> {
        Box::pin(self.put(spans))
    }
}

impl Zipkin {
    async fn put(&self, spans: &[Span]) -> Result<Outcome, String> {
        let list: Vec<_> = spans.iter().map(|span| self.json(span)).collect();
        let body = Value::Array(list).to_string().into_bytes();
        match self.to.post(body).await {
            Ok(_) => Ok(Outcome { rejected: 0 }),
            Err(error) => Err(error.to_string()),
        }
    }

    fn json(&self, span: &Span) -> Value {
        let tags = span.tags.iter().filter(|(_, value)| !value.is_empty());
        let tags: BTreeMap<_, _> = tags.map(|(k, v)| (k.as_ref(), v)).collect();
        let mut endpoint = json!({ "serviceName": self.service });
        if let Some(local) = span.local {
            let key = match local.ip() {
                IpAddr::V4(_) => "ipv4",
                IpAddr::V6(_) => "ipv6",
            };
            endpoint[key] = local.ip().to_string().into();
            endpoint["port"] = local.port().into();
        }
        let mut json = json!({
            "traceId": trace_text(span.trace_id),
            "id": format!("{:016x}", span.id),
            "name": span.name,
            "kind": match span.kind {
                Kind::Server => "SERVER",
                Kind::Client => "CLIENT",
            },
            "timestamp": span.start / 1000,
            // Zipkin's of 0 is one that isn't known.
            "duration": (span.end.saturating_sub(span.start) / 1000).max(1),
            "localEndpoint": endpoint,
            "tags": tags,
        });
        if let Some(parent) = span.parent {
            json["parentId"] = format!("{parent:016x}").into();
        }
        json
    }
}
