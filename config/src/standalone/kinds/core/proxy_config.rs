//! ProxyConfig: what `defaultConfig` of MeshConfig says of a proxy, and over that the annotation `proxy.istio.io/config` of the
//! Gateway's pods.
//!
//! Read is what istiod makes part of a waypoint's listeners and clusters. Fields that it reads for gateways and sidecars alone are
//! named.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::standalone::input::duration::optional_duration;
use crate::standalone::input::near::meant;
use crate::standalone::input::strict_value::StrictValue;
use crate::standalone::input::yaml;
use crate::standalone::kinds::core::config_map_fields::{HTTP_10, set};
use crate::standalone::kinds::core::custom_tag::CustomTag;

/// The annotation of pods that has settings of its own.
pub const ANNOTATION: &str = "proxy.istio.io/config";

/// The part of `defaultConfig` that reaches a waypoint's listeners.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    /// As a whole from where it is said last.
    pub tracing: Option<Tracing>,
    pub connection_settings: ConnectionSettings,
    pub proxy_headers: ProxyHeaders,
    /// Variables of a proxy's process, of which istiod reads some.
    proxy_metadata: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// Percent of requests that start a trace; 0 says nothing, as in istiod.
    pub sampling: f64,
    /// 0: Envoy's.
    pub max_path_tag_length: u32,
    pub custom_tags: BTreeMap<String, CustomTag>,
    pub enable_istio_tags: Option<bool>,
}

/// Where nothing is said of tracing.
static NO_TRACING: Tracing = Tracing {
    sampling: 0.0,
    max_path_tag_length: 0,
    custom_tags: BTreeMap::new(),
    enable_istio_tags: None,
};

/// Limits of HTTP connections and requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionSettings {
    #[serde(deserialize_with = "optional_duration")]
    pub http_idle_timeout: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub http_max_connection_duration: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub http_drain_timeout: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub http_request_timeout: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub http_request_headers_timeout: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub http_stream_idle_timeout: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub http_max_stream_duration: Option<Duration>,
    pub http_max_concurrent_streams: Option<i32>,
    pub http2_initial_stream_window_size: Option<i32>,
    pub http2_initial_connection_window_size: Option<i32>,
    pub http_headers_with_underscores_action: UnderscoresAction,
    pub http_merge_slashes: Option<bool>,
    pub http_path_with_escaped_slashes_action: EscapedSlashesAction,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnderscoresAction {
    #[default]
    HeadersWithUnderscoresUnspecified,
    HeadersWithUnderscoresAllow,
    HeadersWithUnderscoresRejectRequest,
    HeadersWithUnderscoresDropHeader,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EscapedSlashesAction {
    #[default]
    PathWithEscapedSlashesUnspecified,
    KeepUnchanged,
    RejectRequest,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

/// Which headers a proxy adds by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyHeaders {
    pub request_id: Switch,
    pub server: ServerHeader,
    pub envoy_debug_headers: Switch,
    pub x_forwarded_port: Switch,
    pub preserve_http1_header_case: Option<bool>,
}

/// A header that is there or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Switch {
    disabled: Option<bool>,
    enabled: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServerHeader {
    disabled: Option<bool>,
    value: Option<String>,
}

/// Fields of `tracing` that are honoured.
const TRACING: &[&str] = &[
    "customTags",
    "enableIstioTags",
    "maxPathTagLength",
    "sampling",
];
const CONNECTION_SETTINGS: &[&str] = &[
    "httpIdleTimeout",
    "httpMaxConnectionDuration",
    "httpDrainTimeout",
    "httpRequestTimeout",
    "httpRequestHeadersTimeout",
    "httpStreamIdleTimeout",
    "httpMaxStreamDuration",
    "httpMaxConcurrentStreams",
    "http2InitialStreamWindowSize",
    "http2InitialConnectionWindowSize",
    "httpHeadersWithUnderscoresAction",
    "httpMergeSlashes",
    "httpPathWithEscapedSlashesAction",
];
/// Those that istiod reads for gateways.
const OF_GATEWAYS: &[&str] = &[
    "profile",
    "listenerPerConnectionBufferLimitBytes",
    "clusterPerConnectionBufferLimitBytes",
    "listenerConnectionLimit",
];
const PROXY_HEADERS: &[&str] = &[
    "requestId",
    "server",
    "envoyDebugHeaders",
    "xForwardedPort",
    "preserveHttp1HeaderCase",
];
/// Those that it reads for sidecars and gateways.
const OF_SIDECARS: &[&str] = &[
    "forwardedClientCert",
    "setCurrentClientCertDetails",
    "attemptCount",
    "metadataExchangeHeaders",
    "xForwardedHost",
];

/// A field that has no effect, and why.
pub(crate) struct WithoutEffect {
    pub field: String,
    pub reason: String,
}

/// What of the two groups of settings has no effect, by its path below the configuration.
pub(crate) fn without_effect(proxy: &Value) -> Vec<WithoutEffect> {
    let mut found = Vec::new();
    for (group, read, of_others, whose) in [
        (
            "connectionSettings",
            CONNECTION_SETTINGS,
            OF_GATEWAYS,
            "gateways",
        ),
        (
            "proxyHeaders",
            PROXY_HEADERS,
            OF_SIDECARS,
            "sidecars and gateways",
        ),
    ] {
        let fields = proxy.get(group).and_then(Value::as_object);
        for name in fields.into_iter().flat_map(Map::keys) {
            let field = format!("{group}.{name}");
            if of_others.contains(&name.as_str()) {
                let reason = format!("counts for {whose}, not for a waypoint");
                found.push(WithoutEffect { field, reason });
            } else if !read.contains(&name.as_str()) {
                let known = read.iter().chain(of_others).copied();
                let reason = format!("unknown field{}", meant(name, known));
                found.push(WithoutEffect { field, reason });
            }
        }
    }
    found
}

/// What of `tracing` says something that isn't honoured, by its path below the configuration.
pub(crate) fn unread_of_tracing(proxy: &Value) -> Vec<String> {
    let fields = proxy.get("tracing").and_then(Value::as_object);
    let unread = fields
        .into_iter()
        .flatten()
        .filter(|(name, value)| !TRACING.contains(&name.as_str()) && set(Some(value)));
    unread.map(|(name, _)| format!("tracing.{name}")).collect()
}

impl ProxyConfig {
    /// What is said of tracing.
    pub(crate) fn tracing(&self) -> &Tracing {
        self.tracing.as_ref().unwrap_or(&NO_TRACING)
    }

    pub(crate) fn takes_http_10(&self) -> bool {
        self.proxy_metadata.get(HTTP_10).and_then(Value::as_str) == Some("1")
    }

    /// Whether the values can be used. An error is the field and the reason.
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        let tracing = self.tracing();
        let refused = |field: &str, reason: &str| (format!("tracing.{field}"), reason.to_owned());
        if !(0.0..=100.0).contains(&tracing.sampling) {
            return Err(refused("sampling", "must be between 0 and 100"));
        }
        let mut tags = tracing.custom_tags.values();
        if tags.any(|tag| tag.formatter.is_some()) {
            let reason = "a formatter may be given by a Telemetry only";
            return Err(refused("customTags", reason));
        }
        Ok(())
    }

    /// Reads the annotation's text. An error is the field and the reason.
    pub(crate) fn of_annotation(text: &str) -> Result<ProxyConfig, (String, String)> {
        let value = yaml::embedded(text).map_err(|reason| (String::new(), reason))?;
        let value = match value {
            Value::Null => Value::Object(Map::new()),
            value => value,
        };
        let read: ProxyConfig = serde_path_to_error::deserialize(StrictValue(&value))
            .map_err(|error| (error.path().to_string(), error.inner().to_string()))?;
        read.check()?;
        Ok(read)
    }

    /// These settings, where `own` says nothing.
    #[must_use]
    pub(crate) fn under(self, own: ProxyConfig) -> ProxyConfig {
        let mut proxy_metadata = self.proxy_metadata;
        proxy_metadata.extend(own.proxy_metadata);
        ProxyConfig {
            proxy_metadata,
            tracing: own.tracing.or(self.tracing),
            connection_settings: self.connection_settings.under(own.connection_settings),
            proxy_headers: self.proxy_headers.under(own.proxy_headers),
        }
    }
}

impl ConnectionSettings {
    fn under(self, own: ConnectionSettings) -> ConnectionSettings {
        macro_rules! or {
            ($($field:ident),*) => {
                ConnectionSettings {
                    $($field: own.$field.or(self.$field),)*
                    http_headers_with_underscores_action: match own.http_headers_with_underscores_action {
                        UnderscoresAction::HeadersWithUnderscoresUnspecified => {
                            self.http_headers_with_underscores_action
                        }
                        action => action,
                    },
                    http_path_with_escaped_slashes_action: match own.http_path_with_escaped_slashes_action {
                        EscapedSlashesAction::PathWithEscapedSlashesUnspecified => {
                            self.http_path_with_escaped_slashes_action
                        }
                        action => action,
                    },
                }
            };
        }
        or!(
            http_idle_timeout,
            http_max_connection_duration,
            http_drain_timeout,
            http_request_timeout,
            http_request_headers_timeout,
            http_stream_idle_timeout,
            http_max_stream_duration,
            http_max_concurrent_streams,
            http2_initial_stream_window_size,
            http2_initial_connection_window_size,
            http_merge_slashes
        )
    }
}

impl ProxyHeaders {
    fn under(self, own: ProxyHeaders) -> ProxyHeaders {
        ProxyHeaders {
            request_id: self.request_id.under(own.request_id),
            server: ServerHeader {
                disabled: own.server.disabled.or(self.server.disabled),
                value: own.server.value.or(self.server.value),
            },
            envoy_debug_headers: self.envoy_debug_headers.under(own.envoy_debug_headers),
            x_forwarded_port: self.x_forwarded_port.under(own.x_forwarded_port),
            preserve_http1_header_case: own
                .preserve_http1_header_case
                .or(self.preserve_http1_header_case),
        }
    }
}

impl Switch {
    fn under(self, own: Switch) -> Switch {
        Switch {
            disabled: own.disabled.or(self.disabled),
            enabled: own.enabled.or(self.enabled),
        }
    }

    pub fn is_disabled(self) -> bool {
        self.disabled.unwrap_or_default()
    }

    pub fn is_enabled(self) -> bool {
        self.enabled.unwrap_or_default()
    }
}

impl ServerHeader {
    /// `None`: answers keep the upstream's.
    pub fn name<'s>(&'s self, default: &'s str) -> Option<&'s str> {
        let name = self.value.as_deref().filter(|value| !value.is_empty());
        (!self.disabled.unwrap_or_default()).then(|| name.unwrap_or(default))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_stands_above_the_meshs_settings() {
        let mesh = ProxyConfig::of_annotation(
            "connectionSettings: {httpIdleTimeout: 1m, httpMaxStreamDuration: 1h}\n\
             proxyHeaders: {server: {value: mine}, xForwardedPort: {enabled: true}}",
        );
        let own = ProxyConfig::of_annotation(
            "connectionSettings: {httpIdleTimeout: 2m, httpMergeSlashes: false}\n\
             proxyHeaders: {server: {disabled: true}, requestId: {disabled: true}}",
        );
        let both = mesh.unwrap().under(own.unwrap());
        let settings = &both.connection_settings;
        let minutes = |minutes: u64| Some(Duration::from_secs(minutes * 60));
        assert_eq!(settings.http_idle_timeout, minutes(2));
        assert_eq!(settings.http_max_stream_duration, minutes(60));
        assert_eq!(settings.http_merge_slashes, Some(false));
        let headers = &both.proxy_headers;
        assert_eq!(headers.server.name("istio-envoy"), None);
        assert!(headers.request_id.is_disabled() && headers.x_forwarded_port.is_enabled());
        let named = ServerHeader {
            disabled: None,
            value: Some("mine".to_owned()),
        };
        assert_eq!(named.name("istio-envoy"), Some("mine"));
        assert_eq!(
            ServerHeader::default().name("istio-envoy"),
            Some("istio-envoy")
        );
    }

    #[test]
    fn tracing_is_taken_as_a_whole() {
        let read = |text| ProxyConfig::of_annotation(text).unwrap();
        let mesh = read("tracing: {sampling: 5, maxPathTagLength: 9}");
        let kept = mesh.clone().under(read("connectionSettings: {}"));
        assert_eq!(kept.tracing().sampling, 5.0);
        let both = mesh.under(read("tracing: {maxPathTagLength: 3}"));
        let tracing = both.tracing();
        assert_eq!((tracing.sampling, tracing.max_path_tag_length), (0.0, 3));
        assert_eq!(read("{}").tracing(), &Tracing::default());
    }

    #[test]
    fn errors_name_the_field() {
        for (text, field) in [
            (
                "connectionSettings: {httpIdleTimeout: 1}",
                "connectionSettings.httpIdleTimeout",
            ),
            (
                "connectionSettings: {httpHeadersWithUnderscoresAction: DROP}",
                "connectionSettings.httpHeadersWithUnderscoresAction",
            ),
            ("tracing: {sampling: 101}", "tracing.sampling"),
            (
                "tracing: {customTags: {a: {formatter: {value: b}}}}",
                "tracing.customTags",
            ),
            ("a: [", ""),
        ] {
            assert_eq!(
                ProxyConfig::of_annotation(text).unwrap_err().0,
                field,
                "{text}"
            );
        }
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let value = yaml::embedded(
            "connectionSettings: {profile: EDGE, httpIdleTimeouts: 1s}\nproxyHeaders: {attemptCount: {disabled: true}}",
        )
        .unwrap();
        let found = without_effect(&value);
        let fields: Vec<_> = found.iter().map(|found| found.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "connectionSettings.httpIdleTimeouts",
                "connectionSettings.profile",
                "proxyHeaders.attemptCount"
            ]
        );
    }
}
