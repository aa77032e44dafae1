//! The log of a provider: a file, OTLP, or Envoy's own access log service.

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3 as grpc;
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::opentelemetry::proto::common::v1::any_value::Value as OtlpValue;
use envoy_types::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue, KeyValueList};

use crate::standalone::kinds::core::extension_provider::{ENVOY, ExtensionProvider};
use crate::standalone::kinds::core::telemetry_provider::{
    FileLog, HttpLog, LogFormat, OtelLog, TcpLog, TelemetryProvider,
};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::context::access_log::{
    TEXT_FORMAT, default_fields, fields_of, file_log, formatters, json, text_format, with_newline,
};
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::telemetry::Server;

/// What the provider is told of peers.
const PEERS: [&str; 2] = ["upstream_peer", "downstream_peer"];
const PEERS_AND_THEIR_OLD_NAMES: [&str; 6] = [
    "upstream_peer",
    "downstream_peer",
    "wasm.upstream_peer",
    "wasm.upstream_peer_id",
    "wasm.downstream_peer",
    "wasm.downstream_peer_id",
];

impl Mesh<'_> {
    /// `None`: it is for other telemetry, or its service can't be had.
    pub(super) fn log_of(&self, provider: &ExtensionProvider) -> Option<accesslog::AccessLog> {
        let (name, config) = match provider.telemetry()? {
            TelemetryProvider::FileLog(file) => return Some(self.file_log_of(provider, file)),
            TelemetryProvider::OtelLog(log) => (
                "envoy.access_loggers.open_telemetry",
                otel(log, self.server(provider)?),
            ),
            TelemetryProvider::HttpLog(log) => (
                "envoy.access_loggers.http_grpc",
                http(log, self.server(provider)?),
            ),
            // istiod's own name for it; the type decides.
            TelemetryProvider::TcpLog(log) => (
                "envoy.tcp_grpc_access_log",
                tcp(log, self.server(provider)?),
            ),
            TelemetryProvider::OpenTelemetry(_)
            | TelemetryProvider::Zipkin(_)
            | TelemetryProvider::Prometheus => return None,
        };
        Some(accesslog::AccessLog {
            name: name.to_owned(),
            filter: None,
            config_type: Some(accesslog::access_log::ConfigType::TypedConfig(config)),
        })
    }

    fn file_log_of(&self, provider: &ExtensionProvider, file: &FileLog) -> accesslog::AccessLog {
        if provider.name == ENVOY && file.log_format.is_none() && !file.omit_empty_values {
            return self.access_log.at(&file.path);
        }
        let path = match file.path.as_str() {
            "" => "/dev/stdout",
            path => path,
        };
        let labels = file.log_format.as_ref().and_then(|f| f.labels.as_ref());
        let text = file.log_format.as_ref().and_then(|f| f.text.as_deref());
        let format = match labels {
            Some(labels) if labels.is_empty() => json(default_fields()),
            Some(labels) => json(fields_of(labels.clone())),
            None => match text {
                None | Some("") => text_format(TEXT_FORMAT),
                Some(text) => text_format(&with_newline(text)),
            },
        };
        let format = core::SubstitutionFormatString {
            omit_empty_values: file.omit_empty_values,
            ..format
        };
        file_log(path, format)
    }
}

fn common(
    name: &str,
    default_name: &str,
    server: Server,
    objects: Vec<String>,
) -> Option<grpc::CommonGrpcAccessLogConfig> {
    let name = match name {
        "" => default_name,
        name => name,
    };
    let to = core::grpc_service::EnvoyGrpc {
        cluster_name: server.cluster,
        authority: server.hostname,
        ..core::grpc_service::EnvoyGrpc::default()
    };
    Some(grpc::CommonGrpcAccessLogConfig {
        log_name: name.to_owned(),
        grpc_service: Some(core::GrpcService {
            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(to)),
            ..core::GrpcService::default()
        }),
        transport_api_version: core::ApiVersion::V3.into(),
        filter_state_objects_to_log: objects,
        ..grpc::CommonGrpcAccessLogConfig::default()
    })
}

fn owned<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).into()
}

fn peers(named: &[String]) -> Vec<String> {
    match named {
        [] => owned(PEERS),
        named => named.to_vec(),
    }
}

fn otel(log: &OtelLog, server: Server) -> Any {
    let LogFormat { text, labels } = &log.log_format;
    let body = text.as_deref().filter(|text| !text.is_empty());
    let body = body.unwrap_or(TEXT_FORMAT);
    let text_of = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let text = |text: String| AnyValue {
        value: Some(OtlpValue::StringValue(text)),
    };
    let labels = labels.iter().flatten();
    let mut attributes: Vec<(&String, String)> =
        labels.map(|(key, value)| (key, text_of(value))).collect();
    attributes.sort();
    let formats = attributes.iter().map(|(_, format)| format.as_str());
    let formatters = formatters(formats.chain([body]));
    let attributes = attributes.into_iter().map(|(key, format)| KeyValue {
        key: key.clone(),
        value: Some(text(format)),
        ..KeyValue::default()
    });
    let attributes = KeyValueList {
        values: attributes.collect(),
    };
    let objects = owned(PEERS_AND_THEIR_OLD_NAMES);
    any(&OpenTelemetryAccessLogConfig {
        common_config: common(&log.log_name, "otel_envoy_accesslog", server, objects),
        disable_builtin_labels: true,
        body: Some(text(body.to_owned())),
        attributes: Some(attributes).filter(|all| !all.values.is_empty()),
        formatters,
        ..OpenTelemetryAccessLogConfig::default()
    })
}

fn http(log: &HttpLog, server: Server) -> Any {
    let objects = peers(&log.filter_state_objects_to_log);
    any(&grpc::HttpGrpcAccessLogConfig {
        common_config: common(&log.log_name, "http_envoy_accesslog", server, objects),
        additional_request_headers_to_log: log.additional_request_headers_to_log.clone(),
        additional_response_headers_to_log: log.additional_response_headers_to_log.clone(),
        additional_response_trailers_to_log: log.additional_response_trailers_to_log.clone(),
    })
}

fn tcp(log: &TcpLog, server: Server) -> Any {
    let objects = peers(&log.filter_state_objects_to_log);
    any(&grpc::TcpGrpcAccessLogConfig {
        common_config: common(&log.log_name, "tcp_envoy_accesslog", server, objects),
    })
}
