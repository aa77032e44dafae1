//! Extension providers that telemetry goes to: logs (`envoyFileAccessLog`, `envoyOtelAls`, `envoyHttpAls`, `envoyTcpAls`),
//! traces (`opentelemetry`, `zipkin`) and metrics (`prometheus`).
//!
//! Fields have both spellings that protobuf's JSON knows, as in istiod.

use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::standalone::input::duration::optional_duration;
use crate::standalone::input::schema::is_subdomain;
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// One of the kinds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TelemetryProvider<'a> {
    FileLog(&'a FileLog),
    OtelLog(&'a OtelLog),
    HttpLog(&'a HttpLog),
    TcpLog(&'a TcpLog),
    OpenTelemetry(&'a OpenTelemetry),
    Zipkin(&'a Zipkin),
    Prometheus,
}

/// What a provider is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Logs,
    Traces,
    Metrics,
}

impl Purpose {
    /// For texts.
    pub fn of(self) -> &'static str {
        match self {
            Purpose::Logs => "logs",
            Purpose::Traces => "traces",
            Purpose::Metrics => "metrics",
        }
    }
}

pub(super) const KINDS: [&str; 7] = [
    "envoyFileAccessLog",
    "envoyOtelAls",
    "envoyHttpAls",
    "envoyTcpAls",
    "opentelemetry",
    "zipkin",
    "prometheus",
];

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FileLog {
    /// Empty: standard output.
    pub path: String,
    #[serde(alias = "log_format")]
    pub log_format: Option<LogFormat>,
    #[serde(alias = "omit_empty_values")]
    pub omit_empty_values: bool,
}

/// How lines are written: of a file one of these, of OTLP a body and attributes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogFormat {
    pub text: Option<String>,
    pub labels: Option<Map<String, Value>>,
}

/// OTLP over gRPC.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OtelLog {
    service: String,
    port: u32,
    #[serde(alias = "log_name")]
    pub log_name: String,
    #[serde(alias = "log_format")]
    pub log_format: LogFormat,
}

/// Envoy's access log service, of requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpLog {
    service: String,
    port: u32,
    #[serde(alias = "log_name")]
    pub log_name: String,
    #[serde(alias = "filter_state_objects_to_log")]
    pub filter_state_objects_to_log: Vec<String>,
    #[serde(alias = "additional_request_headers_to_log")]
    pub additional_request_headers_to_log: Vec<String>,
    #[serde(alias = "additional_response_headers_to_log")]
    pub additional_response_headers_to_log: Vec<String>,
    #[serde(alias = "additional_response_trailers_to_log")]
    pub additional_response_trailers_to_log: Vec<String>,
}

/// The same, of connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TcpLog {
    service: String,
    port: u32,
    #[serde(alias = "log_name")]
    pub log_name: String,
    #[serde(alias = "filter_state_objects_to_log")]
    pub filter_state_objects_to_log: Vec<String>,
}

/// OTLP, over gRPC unless `http` says something.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct OpenTelemetry {
    service: String,
    port: u32,
    #[serde(alias = "max_tag_length")]
    pub max_tag_length: u32,
    pub http: Option<HttpExport>,
    pub grpc: Option<GrpcExport>,
    #[serde(alias = "resource_detectors")]
    pub resource_detectors: ResourceDetectors,
    #[serde(alias = "service_attribute_enrichment")]
    pub service_attribute_enrichment: Enrichment,
    /// Not honoured.
    #[serde(alias = "dynatrace_sampler")]
    pub dynatrace_sampler: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpExport {
    pub path: String,
    #[serde(deserialize_with = "optional_duration")]
    pub timeout: Option<Duration>,
    pub headers: Vec<HttpHeader>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct GrpcExport {
    #[serde(deserialize_with = "optional_duration")]
    pub timeout: Option<Duration>,
    #[serde(alias = "initial_metadata")]
    pub initial_metadata: Vec<HttpHeader>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpHeader {
    pub name: String,
    value: Option<String>,
    /// A variable of the environment.
    #[serde(alias = "env_name")]
    env_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceDetectors {
    pub environment: Option<Map<String, Value>>,
    /// Not honoured.
    pub dynatrace: Option<Map<String, Value>>,
}

/// What spans say of whose they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Enrichment {
    #[default]
    IstioCanonical,
    OtelSemanticConventions,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Zipkin {
    service: String,
    port: u32,
    #[serde(alias = "max_tag_length")]
    pub max_tag_length: u32,
    #[serde(rename = "enable64bitTraceId", alias = "enable_64bit_trace_id")]
    pub enable_64bit_trace_id: bool,
    /// Empty: `/api/v2/spans`.
    pub path: String,
    #[serde(alias = "trace_context_option")]
    pub trace_context_option: TraceContextOption,
    #[serde(deserialize_with = "optional_duration")]
    pub timeout: Option<Duration>,
    pub headers: Vec<HttpHeader>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TraceContextOption {
    #[default]
    #[serde(rename = "USE_B3")]
    B3,
    #[serde(rename = "USE_B3_WITH_W3C_PROPAGATION")]
    B3WithW3c,
}

impl HttpHeader {
    /// `environment` gives the value of a variable.
    pub fn value(&self, environment: &dyn Fn(&str) -> Option<String>) -> String {
        let of_environment = || environment(self.env_name.as_deref()?);
        let value = self.value.clone().or_else(of_environment);
        value.unwrap_or_default()
    }
}

impl TelemetryProvider<'_> {
    pub fn purpose(self) -> Purpose {
        match self {
            TelemetryProvider::FileLog(_)
            | TelemetryProvider::OtelLog(_)
            | TelemetryProvider::HttpLog(_)
            | TelemetryProvider::TcpLog(_) => Purpose::Logs,
            TelemetryProvider::OpenTelemetry(_) | TelemetryProvider::Zipkin(_) => Purpose::Traces,
            TelemetryProvider::Prometheus => Purpose::Metrics,
        }
    }

    /// The name of its kind in MeshConfig.
    pub fn kind(self) -> &'static str {
        match self {
            TelemetryProvider::FileLog(_) => "envoyFileAccessLog",
            TelemetryProvider::OtelLog(_) => "envoyOtelAls",
            TelemetryProvider::HttpLog(_) => "envoyHttpAls",
            TelemetryProvider::TcpLog(_) => "envoyTcpAls",
            TelemetryProvider::OpenTelemetry(_) => "opentelemetry",
            TelemetryProvider::Zipkin(_) => "zipkin",
            TelemetryProvider::Prometheus => "prometheus",
        }
    }

    /// Fields that are given and not honoured.
    pub(super) fn not_honoured(self) -> Vec<&'static str> {
        let TelemetryProvider::OpenTelemetry(to) = self else {
            return Vec::new();
        };
        let given = [
            ("dynatraceSampler", to.dynatrace_sampler.is_some()),
            (
                "resourceDetectors.dynatrace",
                to.resource_detectors.dynatrace.is_some(),
            ),
        ];
        let given = given.into_iter().filter(|(_, given)| *given);
        given.map(|(field, _)| field).collect()
    }

    pub(super) fn check(self) -> Result<(), Refusal> {
        if let Some((service, port)) = self.service() {
            check_service(service, port)?;
        }
        match self {
            TelemetryProvider::FileLog(log) => {
                let format = log.log_format.as_ref();
                match format.is_some_and(|f| f.text.is_some() && f.labels.is_some()) {
                    true => Err(refusal("logFormat", "may have only one of text and labels")),
                    false => Ok(()),
                }
            }
            TelemetryProvider::OpenTelemetry(traces) => {
                match traces.http.is_some() && traces.grpc.is_some() {
                    true => Err(refusal("http", "may not stand beside grpc")),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

impl<'a> TelemetryProvider<'a> {
    /// The service that is told, with its port.
    pub fn service(self) -> Option<(&'a str, u32)> {
        match self {
            TelemetryProvider::OtelLog(log) => Some((&log.service, log.port)),
            TelemetryProvider::HttpLog(log) => Some((&log.service, log.port)),
            TelemetryProvider::TcpLog(log) => Some((&log.service, log.port)),
            TelemetryProvider::OpenTelemetry(traces) => Some((&traces.service, traces.port)),
            TelemetryProvider::Zipkin(zipkin) => Some((&zipkin.service, zipkin.port)),
            TelemetryProvider::FileLog(_) | TelemetryProvider::Prometheus => None,
        }
    }
}

/// A port, and `host` or `namespace/host`.
pub(super) fn check_service(service: &str, port: u32) -> Result<(), Refusal> {
    if !(1..=65535).contains(&port) {
        return Err(refusal("port", format!("{port} is no port")));
    }
    let host = match service.split_once('/') {
        Some((namespace, host)) if is_subdomain(namespace) && !namespace.contains('.') => host,
        Some(_) => "",
        None => service,
    };
    if is_subdomain(&host.to_ascii_lowercase()) || host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let reason = format!("{service:?} is no host of a service, nor namespace/host");
    Err(refusal("service", reason))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_headers_value_may_be_the_environments() {
        let header = |value: Value| serde_json::from_value::<HttpHeader>(value).unwrap();
        let environment = |name: &str| (name == "KEY").then(|| "secret".to_owned());
        let said = |value| header(value).value(&environment);
        assert_eq!(said(json!({"name": "a", "value": "b"})), "b");
        assert_eq!(said(json!({"name": "a", "envName": "KEY"})), "secret");
        assert_eq!(said(json!({"name": "a", "env_name": "NONE"})), "");
    }

    #[test]
    fn what_istiod_refuses_is_refused() {
        let log: FileLog =
            serde_json::from_value(json!({"logFormat": {"text": "a", "labels": {}}})).unwrap();
        let refused = TelemetryProvider::FileLog(&log).check().unwrap_err();
        assert_eq!(refused.0, "logFormat");
        let traces: OpenTelemetry =
            serde_json::from_value(json!({"service": "a.test", "port": 1, "http": {}, "grpc": {}}))
                .unwrap();
        let refused = TelemetryProvider::OpenTelemetry(&traces)
            .check()
            .unwrap_err();
        assert_eq!(refused.0, "http");
        let zipkin: Zipkin =
            serde_json::from_value(json!({"service": "a.test", "enable64bitTraceId": true}))
                .unwrap();
        let refused = TelemetryProvider::Zipkin(&zipkin).check().unwrap_err();
        assert_eq!(refused.0, "port");
        assert!(zipkin.enable_64bit_trace_id);
        let traces: OpenTelemetry = serde_json::from_value(
            json!({"dynatraceSampler": {}, "resource_detectors": {"dynatrace": {}}}),
        )
        .unwrap();
        assert_eq!(
            TelemetryProvider::OpenTelemetry(&traces).not_honoured(),
            ["dynatraceSampler", "resourceDetectors.dynatrace"]
        );
    }
}
