//! The tracer of a provider: where spans go, as the connection manager is told.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::trace::v3 as trace;
use envoy_types::pb::envoy::extensions::tracers::opentelemetry::resource_detectors::v3::EnvironmentResourceDetectorConfig;
use envoy_types::pb::google::protobuf::{Any, Duration};
use trace::zipkin_config::{CollectorEndpointVersion, TraceContextOption as Propagated};

use crate::standalone::kinds::core::extension_provider::ExtensionProvider;
use crate::standalone::kinds::core::telemetry_provider::{
    Enrichment, HttpHeader, OpenTelemetry, TelemetryProvider, TraceContextOption, Zipkin,
};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::{any, boolean, duration, seconds};
use crate::standalone::translate::telemetry::{Server, environment};

const DEFAULT_ZIPKIN_PATH: &str = "/api/v2/spans";
/// Labels of the waypoint's own pods that name it to OpenTelemetry.
const NAMING_LABELS: [&str; 2] = ["app.kubernetes.io/instance", "app.kubernetes.io/name"];

/// A provider that spans can be sent to, and how long paths in them may be.
pub(super) struct Tracer {
    pub(super) provider: trace::tracing::Http,
    /// 0: nothing is said.
    pub(super) max_path: u32,
}

impl Mesh<'_> {
    /// `None`: it is no tracer, or its service can't be had.
    pub(super) fn tracer_of(&self, provider: &ExtensionProvider) -> Option<Tracer> {
        let (name, config, max_path) = match provider.telemetry()? {
            TelemetryProvider::OpenTelemetry(to) if to.dynatrace_sampler.is_none() => (
                "envoy.tracers.opentelemetry",
                self.opentelemetry(to, &self.server(provider)?),
                to.max_tag_length,
            ),
            TelemetryProvider::Zipkin(to) => (
                "envoy.tracers.zipkin",
                zipkin(to, &self.server(provider)?),
                to.max_tag_length,
            ),
            _ => return None,
        };
        let config_type = trace::tracing::http::ConfigType::TypedConfig(config);
        Some(Tracer {
            provider: trace::tracing::Http {
                name: name.to_owned(),
                config_type: Some(config_type),
            },
            max_path,
        })
    }

    fn opentelemetry(&self, to: &OpenTelemetry, server: &Server) -> Any {
        let by_convention = to.service_attribute_enrichment == Enrichment::OtelSemanticConventions;
        let mut config = trace::OpenTelemetryConfig {
            service_name: match by_convention {
                true => self.name_by_convention(),
                false => self.node_cluster(),
            },
            ..trace::OpenTelemetryConfig::default()
        };
        if let Some(http) = &to.http {
            config.http_service = Some(core::HttpService {
                http_uri: Some(uri(
                    joined(&server.hostname, &http.path),
                    server,
                    http.timeout.map(duration),
                )),
                request_headers_to_add: headers(&http.headers),
                ..core::HttpService::default()
            });
        } else {
            let grpc = to.grpc.clone().unwrap_or_default();
            let envoy = core::grpc_service::EnvoyGrpc {
                cluster_name: server.cluster.clone(),
                authority: server.hostname.clone(),
                ..core::grpc_service::EnvoyGrpc::default()
            };
            config.grpc_service = Some(core::GrpcService {
                timeout: grpc.timeout.map(duration),
                initial_metadata: grpc.initial_metadata.iter().map(header).collect(),
                target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(envoy)),
                ..core::GrpcService::default()
            });
        }
        if to.resource_detectors.environment.is_some() || by_convention {
            config.resource_detectors = vec![core::TypedExtensionConfig {
                name: "envoy.tracers.opentelemetry.resource_detectors.environment".to_owned(),
                typed_config: Some(any(&EnvironmentResourceDetectorConfig {})),
            }];
        }
        any(&config)
    }

    /// What a waypoint's node says of its cluster.
    fn node_cluster(&self) -> String {
        let own = &self.waypoint.gateway.meta;
        format!("{}.{}", own.name, own.namespace)
    }

    fn name_by_convention(&self) -> String {
        let label = NAMING_LABELS.iter().find_map(|name| self.place.label(name));
        let label = label.filter(|value| !value.is_empty());
        label.unwrap_or(&self.waypoint.gateway.meta.name).to_owned()
    }
}

fn zipkin(to: &Zipkin, server: &Server) -> Any {
    let path = match to.path.as_str() {
        "" => DEFAULT_ZIPKIN_PATH,
        path => path,
    };
    let time = to.timeout.map(duration).or_else(|| seconds(5));
    let http = core::HttpService {
        http_uri: Some(uri(
            format!("http://{}{path}", server.hostname),
            server,
            time,
        )),
        request_headers_to_add: headers(&to.headers),
        ..core::HttpService::default()
    };
    let propagated = match to.trace_context_option {
        TraceContextOption::B3 => Propagated::UseB3,
        TraceContextOption::B3WithW3c => Propagated::UseB3WithW3cPropagation,
    };
    any(&trace::ZipkinConfig {
        trace_id_128bit: !to.enable_64bit_trace_id,
        shared_span_context: boolean(false),
        collector_endpoint_version: CollectorEndpointVersion::HttpJson.into(),
        trace_context_option: propagated.into(),
        collector_service: Some(http),
        ..trace::ZipkinConfig::default()
    })
}

fn uri(uri: String, server: &Server, timeout: Option<Duration>) -> core::HttpUri {
    core::HttpUri {
        uri,
        timeout,
        http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(
            server.cluster.clone(),
        )),
    }
}

fn header(header: &HttpHeader) -> core::HeaderValue {
    core::HeaderValue {
        key: header.name.clone(),
        value: header.value(&environment),
        ..core::HeaderValue::default()
    }
}

fn headers(all: &[HttpHeader]) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction;
    let option = |one| core::HeaderValueOption {
        header: Some(header(one)),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..core::HeaderValueOption::default()
    };
    all.iter().map(option).collect()
}

/// A host with a path below it, without steps back and empty steps.
fn joined(host: &str, path: &str) -> String {
    let mut steps = vec![host];
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    let end = if path.ends_with('/') { "/" } else { "" };
    format!("{}{end}", steps.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_put_below_its_host() {
        for (path, whole) in [
            ("/v1/traces", "a.test/v1/traces"),
            ("v1//./traces/", "a.test/v1/traces/"),
            ("/x/../v1", "a.test/v1"),
            ("", "a.test"),
        ] {
            assert_eq!(joined("a.test", path), whole);
        }
    }
}
