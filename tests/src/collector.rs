//! A scripted collector of spans: OTLP over gRPC and over HTTP, and Zipkin's JSON; and meshes whose chains have a tracer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, HttpService, HttpUri};
use envoy_types::pb::envoy::config::trace::v3::tracing::{Http, http::ConfigType};
use envoy_types::pb::envoy::config::trace::v3::{OpenTelemetryConfig, ZipkinConfig};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::BoolValue;
use envoy_types::pb::opentelemetry::proto::common::v1::KeyValue;
use envoy_types::pb::opentelemetry::proto::common::v1::any_value::Value as OtlpValue;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::{Message, Name};
use serde_json::Value;
use tokio::net::TcpStream;
use waypoint_config::resource::Resource;
use waypoint_filters::telemetry::trace::otlp::ExportTraceServiceRequest;

use crate::app::App;
use crate::ext_authz_resources::{grpc_service, guarded, seconds};
use crate::mesh::Mesh;
use crate::route_changes::packed;
use crate::wait::until;

/// A span as its collector got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub trace_id: String,
    pub id: String,
    /// Empty: it has none.
    pub parent: String,
    pub name: String,
    /// Whether it is a server's.
    pub server: bool,
    pub error: bool,
    pub state: String,
    pub start: u64,
    pub end: u64,
    pub tags: BTreeMap<String, String>,
    /// Whose it is.
    pub service: String,
}

impl Span {
    /// A tag's value; empty: there is none.
    #[must_use]
    pub fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map_or("", String::as_str)
    }
}

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Takes,
    Refuses,
    Never,
}

/// The collector. Clones share it.
#[derive(Clone)]
pub struct Collector(Arc<Mutex<State>>);

struct State {
    mood: Mood,
    spans: Vec<Span>,
    heads: Vec<(String, HeaderMap)>,
    batches: usize,
}

impl Collector {
    /// Over HTTP/2, which gRPC needs.
    pub async fn grpc(address: SocketAddr) -> Collector {
        let collector = Collector::new();
        let owned = collector.clone();
        App::tcp(address, move |tcp| owned.clone().serve_grpc(tcp)).await;
        collector
    }

    /// Over HTTP/1.1.
    pub async fn http(address: SocketAddr) -> Collector {
        let collector = Collector::new();
        let owned = collector.clone();
        App::tcp(address, move |tcp| owned.clone().serve_http(tcp)).await;
        collector
    }

    fn new() -> Collector {
        Collector(Arc::new(Mutex::new(State {
            mood: Mood::Takes,
            spans: Vec::new(),
            heads: Vec::new(),
            batches: 0,
        })))
    }

    pub fn mood(&self, mood: Mood) {
        self.0.lock().mood = mood;
    }

    /// Spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.0.lock().spans.clone()
    }

    /// Waits for so many, and takes all there are.
    pub async fn take(&self, count: usize) -> Vec<Span> {
        until(&format!("{count} spans"), async || {
            (self.0.lock().spans.len() >= count).then_some(())
        })
        .await;
        std::mem::take(&mut self.0.lock().spans)
    }

    /// Batches that came, taken or not.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.0.lock().batches
    }

    /// Path and headers of the last batch.
    #[must_use]
    pub fn head(&self) -> (String, HeaderMap) {
        self.0.lock().heads.last().cloned().unwrap()
    }

    fn got(&self, path: &str, headers: &HeaderMap, data: &[u8]) -> Mood {
        let mut state = self.0.lock();
        state.batches += 1;
        state.heads.push((path.to_owned(), headers.clone()));
        if state.mood == Mood::Takes {
            let kind = headers.get("content-type").unwrap().to_str().unwrap();
            state.spans.extend(match kind {
                "application/json" => zipkin(data),
                _ => otlp(data),
            });
        }
        state.mood
    }

    async fn serve_grpc(self, tcp: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(tcp).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().answer_grpc(request, respond));
        }
    }

    async fn answer_grpc(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (head, mut body) = request.into_parts();
        let mut data = BytesMut::new();
        while let Some(Ok(chunk)) = body.data().await {
            let _ = body.flow_control().release_capacity(chunk.len());
            data.extend_from_slice(&chunk);
        }
        let path = head.uri.path().to_owned();
        let status = match self.got(&path, &head.headers, data.get(5..).unwrap()) {
            Mood::Takes => 0,
            Mood::Refuses => 14,
            Mood::Never => return std::future::pending().await,
        };
        let head = Response::builder().header("content-type", "application/grpc");
        let Ok(mut send) = respond.send_response(head.body(()).unwrap(), false) else {
            return;
        };
        let _ = send.send_data(Bytes::from_static(&[0; 5]), false);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.into());
        let _ = send.send_trailers(trailers);
    }

    async fn serve_http(self, tcp: TcpStream) {
        let service = service_fn(move |request: Request<Incoming>| {
            let collector = self.clone();
            async move {
                let (head, body) = request.into_parts();
                let data = body.collect().await.unwrap().to_bytes();
                let status = match collector.got(head.uri.path(), &head.headers, &data) {
                    Mood::Takes => 202,
                    Mood::Refuses => 503,
                    Mood::Never => std::future::pending().await,
                };
                let answer = Response::builder().status(status);
                Ok::<_, Infallible>(answer.body(Full::<Bytes>::default()).unwrap())
            }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
        let _ = connection.await;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pairs(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let pair = |attribute: &KeyValue| {
        let value = attribute.value.as_ref().and_then(|v| v.value.clone());
        let value = match value {
            Some(OtlpValue::StringValue(text)) => text,
            other => format!("{other:?}"),
        };
        (attribute.key.clone(), value)
    };
    attributes.iter().map(pair).collect()
}

fn otlp(data: &[u8]) -> Vec<Span> {
    let message = ExportTraceServiceRequest::decode(data).unwrap();
    let mut spans = Vec::new();
    for of_resource in message.resource_spans {
        let resource = pairs(&of_resource.resource.unwrap_or_default().attributes);
        let service = resource.get("service.name").cloned().unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|s| s.spans) {
            spans.push(Span {
                trace_id: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                name: span.name,
                server: span.kind == 2,
                error: span.status.is_some_and(|status| status.code == 2),
                state: span.trace_state,
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                tags: pairs(&span.attributes),
                service: service.clone(),
            });
        }
    }
    spans
}

fn zipkin(data: &[u8]) -> Vec<Span> {
    let list: Vec<Value> = serde_json::from_slice(data).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let span = |span: &Value| {
        let tags = span["tags"].as_object().unwrap();
        let start = span["timestamp"].as_u64().unwrap() * 1000;
        Span {
            trace_id: text(&span["traceId"]),
            id: text(&span["id"]),
            parent: text(&span["parentId"]),
            name: text(&span["name"]),
            server: span["kind"] == "SERVER",
            error: false,
            state: String::new(),
            start,
            end: start + span["duration"].as_u64().unwrap() * 1000,
            tags: tags.iter().map(|(k, v)| (k.clone(), text(v))).collect(),
            service: text(&span["localEndpoint"]["serviceName"]),
        }
    };
    list.iter().map(span).collect()
}

/// An HTTP service as istiod writes it, with a header.
fn http_service(cluster: &str, uri: &str) -> HttpService {
    HttpService {
        http_uri: Some(HttpUri {
            uri: uri.to_owned(),
            timeout: Some(seconds(5)),
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.to_owned())),
        }),
        request_headers_to_add: vec![HeaderValueOption {
            header: Some(HeaderValue {
                key: "x-token".into(),
                value: "secret".into(),
                ..HeaderValue::default()
            }),
            ..HeaderValueOption::default()
        }],
        ..HttpService::default()
    }
}

/// A tracer that sends OTLP over gRPC to this cluster.
#[must_use]
pub fn otlp_grpc(cluster: &str) -> Http {
    provider(
        "envoy.tracers.opentelemetry",
        &OpenTelemetryConfig {
            grpc_service: Some(grpc_service(cluster)),
            service_name: "waypoint.default".into(),
            ..OpenTelemetryConfig::default()
        },
    )
}

/// A tracer that sends OTLP over HTTP to this cluster.
#[must_use]
pub fn otlp_http(cluster: &str) -> Http {
    provider(
        "envoy.tracers.opentelemetry",
        &OpenTelemetryConfig {
            http_service: Some(http_service(cluster, "otel.test/v1/traces")),
            service_name: "waypoint.default".into(),
            ..OpenTelemetryConfig::default()
        },
    )
}

/// A tracer of Zipkin's.
#[must_use]
pub fn to_zipkin(cluster: &str, change: impl FnOnce(&mut ZipkinConfig)) -> Http {
    let mut config = ZipkinConfig {
        trace_id_128bit: true,
        shared_span_context: Some(BoolValue { value: false }),
        collector_endpoint_version: 1,
        collector_service: Some(http_service(cluster, "zipkin.test/api/v2/spans")),
        ..ZipkinConfig::default()
    };
    change(&mut config);
    provider("envoy.tracers.zipkin", &config)
}

/// Any tracer.
#[must_use]
pub fn provider<M: Message + Name>(name: &str, config: &M) -> Http {
    Http {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(packed(config))),
    }
}

/// The mesh's resources, where requests to a service are traced, all unless `change` says otherwise.
#[must_use]
pub fn traced(
    mesh: &Mesh,
    service: &str,
    provider: &Http,
    change: impl Fn(&mut Tracing),
) -> Vec<Resource> {
    guarded(mesh, service, Vec::new(), |manager| {
        let tracing = manager.tracing.get_or_insert_default();
        tracing.random_sampling = Some(Percent { value: 100.0 });
        tracing.provider = Some(provider.clone());
        change(tracing);
    })
}
