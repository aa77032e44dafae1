//! A scripted service of access logs: OTLP's and Envoy's own, over gRPC; and meshes whose requests are logged to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::data::accesslog::v3::{HttpAccessLogEntry, TcpAccessLogEntry};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::opentelemetry::proto::common::v1::any_value::Value;
use envoy_types::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue, KeyValueList};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use prost::{Message, Name};
use tokio::net::TcpStream;
use waypoint_config::resource::Resource;
use waypoint_filters::telemetry::log_service::otlp_logs::{ExportLogsServiceRequest, LogRecord};

use crate::app::App;
use crate::collector::Mood;
use crate::ext_authz_resources::{grpc_service, guarded};
use crate::mesh::Mesh;
use crate::route_changes::packed;
use crate::wait::until;

/// A record of OTLP as its collector got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub body: String,
    pub attributes: Vec<(String, String)>,
    pub resource: BTreeMap<String, String>,
    pub trace_id: String,
    pub span_id: String,
    pub time: u64,
}

/// An entry of Envoy's service, with the log's name and the node's id and cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<T> {
    pub log: String,
    pub node: (String, String),
    pub entry: T,
}

#[derive(Clone)]
pub struct LogCollector(Arc<Mutex<State>>);

struct State {
    mood: Mood,
    calls: usize,
    records: Vec<Record>,
    http: Vec<Entry<HttpAccessLogEntry>>,
    tcp: Vec<Entry<TcpAccessLogEntry>>,
}

impl LogCollector {
    pub async fn start(address: SocketAddr) -> LogCollector {
        let collector = LogCollector(Arc::new(Mutex::new(State {
            mood: Mood::Takes,
            calls: 0,
            records: Vec::new(),
            http: Vec::new(),
            tcp: Vec::new(),
        })));
        let owned = collector.clone();
        App::tcp(address, move |tcp| owned.clone().serve(tcp)).await;
        collector
    }

    pub fn mood(&self, mood: Mood) {
        self.0.lock().mood = mood;
    }

    /// Calls so far, answered or not.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.0.lock().calls
    }

    /// Waits for so many records, and takes all there are.
    pub async fn records(&self, count: usize) -> Vec<Record> {
        self.taken(count, |state| &mut state.records).await
    }

    pub async fn http(&self, count: usize) -> Vec<Entry<HttpAccessLogEntry>> {
        self.taken(count, |state| &mut state.http).await
    }

    pub async fn tcp(&self, count: usize) -> Vec<Entry<TcpAccessLogEntry>> {
        self.taken(count, |state| &mut state.tcp).await
    }

    async fn taken<T>(&self, count: usize, list: fn(&mut State) -> &mut Vec<T>) -> Vec<T> {
        until(&format!("{count} entries"), async || {
            (list(&mut self.0.lock()).len() >= count).then_some(())
        })
        .await;
        std::mem::take(list(&mut self.0.lock()))
    }

    async fn serve(self, tcp: TcpStream) {
        let Ok(mut connection) = h2::server::handshake(tcp).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().answer(request, respond));
        }
    }

    /// Messages are read as they come: Envoy keeps its stream open.
    async fn answer(self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (head, mut body) = request.into_parts();
        self.0.lock().calls += 1;
        let mood = self.0.lock().mood;
        let mut data = BytesMut::new();
        let mut who = (String::new(), (String::new(), String::new()));
        while let Some(Ok(chunk)) = body.data().await {
            let _ = body.flow_control().release_capacity(chunk.len());
            data.extend_from_slice(&chunk);
            while let Some(message) = message(&mut data) {
                if mood == Mood::Takes {
                    self.took(head.uri.path(), &message, &mut who);
                }
            }
        }
        let status = match mood {
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

    fn took(&self, path: &str, message: &[u8], who: &mut (String, (String, String))) {
        let mut state = self.0.lock();
        if path == "/opentelemetry.proto.collector.logs.v1.LogsService/Export" {
            return state.records.extend(records(message));
        }
        assert_eq!(
            path,
            "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
        );
        let message = StreamAccessLogsMessage::decode(message).unwrap();
        if let Some(identifier) = message.identifier {
            let node = identifier.node.unwrap_or_default();
            *who = (identifier.log_name, (node.id, node.cluster));
        }
        let (log, node) = who.clone();
        match message.log_entries {
            Some(LogEntries::HttpLogs(logs)) => {
                state
                    .http
                    .extend(logs.log_entry.into_iter().map(|entry| Entry {
                        log: log.clone(),
                        node: node.clone(),
                        entry,
                    }));
            }
            Some(LogEntries::TcpLogs(logs)) => {
                state
                    .tcp
                    .extend(logs.log_entry.into_iter().map(|entry| Entry {
                        log: log.clone(),
                        node: node.clone(),
                        entry,
                    }));
            }
            None => {}
        }
    }
}

/// The next whole message.
fn message(data: &mut BytesMut) -> Option<BytesMut> {
    let (prefix, rest) = data.split_first_chunk::<5>()?;
    let [_, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if rest.len() < length {
        return None;
    }
    let _ = data.split_to(5);
    Some(data.split_to(length))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        other => format!("{other:?}"),
    }
}

fn pairs(all: Vec<KeyValue>) -> impl Iterator<Item = (String, String)> {
    all.into_iter().map(|one| (one.key, text(one.value)))
}

fn records(message: &[u8]) -> Vec<Record> {
    let message = ExportLogsServiceRequest::decode(message).unwrap();
    let mut found = Vec::new();
    for of_resource in message.resource_logs {
        let resource = of_resource.resource.unwrap_or_default().attributes;
        let resource: BTreeMap<_, _> = pairs(resource).collect();
        let records = of_resource
            .scope_logs
            .into_iter()
            .flat_map(|s| s.log_records);
        for record in records {
            let record = LogRecord::decode(record).unwrap();
            found.push(Record {
                body: text(record.body),
                attributes: pairs(record.attributes).collect(),
                resource: resource.clone(),
                trace_id: hex(&record.trace_id),
                span_id: hex(&record.span_id),
                time: record.time_unix_nano,
            });
        }
    }
    found
}

fn log<M: Message + Name>(name: &str, config: &M) -> AccessLog {
    AccessLog {
        name: name.to_owned(),
        filter: None,
        config_type: Some(access_log::ConfigType::TypedConfig(packed(config))),
    }
}

fn common(cluster: &str, name: &str) -> Option<CommonGrpcAccessLogConfig> {
    let mut grpc = grpc_service(cluster);
    grpc.timeout = None;
    Some(CommonGrpcAccessLogConfig {
        log_name: name.to_owned(),
        grpc_service: Some(grpc),
        transport_api_version: 2,
        filter_state_objects_to_log: vec!["upstream_peer".into(), "downstream_peer".into()],
        ..CommonGrpcAccessLogConfig::default()
    })
}

/// A log to OTLP with this text and these attributes.
#[must_use]
pub fn otel_log(cluster: &str, body: &str, attributes: &[(&str, &str)]) -> AccessLog {
    let value = |text: &str| AnyValue {
        value: Some(Value::StringValue(text.to_owned())),
    };
    let attributes = attributes.iter().map(|(key, text)| KeyValue {
        key: (*key).to_owned(),
        value: Some(value(text)),
        ..KeyValue::default()
    });
    let config = OpenTelemetryAccessLogConfig {
        common_config: common(cluster, "otel"),
        disable_builtin_labels: true,
        body: Some(value(body)),
        attributes: Some(KeyValueList {
            values: attributes.collect(),
        }),
        ..OpenTelemetryAccessLogConfig::default()
    };
    log("envoy.access_loggers.open_telemetry", &config)
}

/// A log to Envoy's service, of requests, with some headers.
#[must_use]
pub fn http_log(cluster: &str) -> AccessLog {
    let config = HttpGrpcAccessLogConfig {
        common_config: common(cluster, "http"),
        additional_request_headers_to_log: vec!["x-a".into(), "x-none".into()],
        additional_response_headers_to_log: vec!["x-app".into(), "content-type".into()],
        additional_response_trailers_to_log: vec!["x-trailer".into()],
    };
    log("envoy.access_loggers.http_grpc", &config)
}

/// The same, of connections.
#[must_use]
pub fn tcp_log(cluster: &str) -> AccessLog {
    let config = TcpGrpcAccessLogConfig {
        common_config: common(cluster, "tcp"),
    };
    log("envoy.access_loggers.tcp_grpc", &config)
}

/// The mesh's resources, where requests to a service have these logs.
#[must_use]
pub fn logged(mesh: &Mesh, service: &str, logs: &[AccessLog]) -> Vec<Resource> {
    guarded(mesh, service, Vec::new(), |manager| {
        manager.access_log = logs.to_vec();
    })
}
