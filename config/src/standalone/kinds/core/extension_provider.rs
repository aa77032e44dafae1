//! MeshConfig's `extensionProviders`: services outside the waypoint that it may ask or tell.
//!
//! Those that decide about requests, `envoyExtAuthzGrpc` and `envoyExtAuthzHttp`, are named by CUSTOM policies; those of
//! telemetry (`telemetry_provider.rs`) by Telemetry objects and by `defaultProviders`. What istiod's check of MeshConfig
//! refuses is refused here, and so is a field that nobody knows: what is asked must not depend on the reader. What istiod
//! finds out later, where a policy uses the provider, is [`ExtAuthz::unusable`].

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use envoy_types::pb::envoy::r#type::v3::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::standalone::input::duration::optional_duration;
use crate::standalone::input::near::meant;
use crate::standalone::input::schema::{is_subdomain, is_token};
use crate::standalone::kinds::core::telemetry_provider::{
    self, FileLog, HttpLog, OpenTelemetry, OtelLog, TcpLog, TelemetryProvider, Zipkin,
    check_service,
};
use crate::standalone::kinds::refusal::{Refusal, refusal};

const GRPC: &str = "envoyExtAuthzGrpc";
const HTTP: &str = "envoyExtAuthzHttp";
/// The kinds that aren't read.
const OTHERS: &[&str] = &[
    "datadog",
    "lightstep",
    "opencensus",
    "sds",
    "skywalking",
    "stackdriver",
];

/// A provider as it is written: a name, and one of the kinds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExtensionProvider {
    pub name: String,
    envoy_ext_authz_grpc: Option<Grpc>,
    envoy_ext_authz_http: Option<Http>,
    #[serde(alias = "envoy_file_access_log")]
    envoy_file_access_log: Option<FileLog>,
    #[serde(alias = "envoy_otel_als")]
    envoy_otel_als: Option<OtelLog>,
    #[serde(alias = "envoy_http_als")]
    envoy_http_als: Option<HttpLog>,
    #[serde(alias = "envoy_tcp_als")]
    envoy_tcp_als: Option<TcpLog>,
    opentelemetry: Option<OpenTelemetry>,
    zipkin: Option<Zipkin>,
    prometheus: Option<Prometheus>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Providers that every mesh has, unless MeshConfig has others of these names.
pub static BUILT_IN: LazyLock<[ExtensionProvider; 2]> = LazyLock::new(|| {
    [
        ExtensionProvider {
            name: "prometheus".to_owned(),
            prometheus: Some(Prometheus {}),
            ..ExtensionProvider::default()
        },
        ExtensionProvider {
            name: ENVOY.to_owned(),
            envoy_file_access_log: Some(FileLog {
                path: "/dev/stdout".to_owned(),
                ..FileLog::default()
            }),
            ..ExtensionProvider::default()
        },
    ]
});

/// The provider whose format MeshConfig gives, where it has none itself.
pub const ENVOY: &str = "envoy";

/// `prometheus`: Istio's metrics, for whoever scrapes them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prometheus {}

/// A provider that decides about requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ExtAuthz<'a> {
    Grpc(&'a Grpc),
    Http(&'a Http),
}

/// `envoyExtAuthzGrpc`: Envoy's `Authorization.Check`, for requests and for connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Grpc {
    pub service: String,
    pub port: u32,
    #[serde(deserialize_with = "optional_duration")]
    pub timeout: Option<Duration>,
    pub fail_open: bool,
    pub clear_route_cache: bool,
    status_on_error: String,
    pub include_request_body_in_check: Option<RequestBody>,
}

/// `envoyExtAuthzHttp`: a request of its own for each that is to be decided; connections aren't.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Http {
    pub service: String,
    pub port: u32,
    #[serde(deserialize_with = "optional_duration")]
    pub timeout: Option<Duration>,
    /// Stands before the path that is asked about.
    pub path_prefix: String,
    pub fail_open: bool,
    pub clear_route_cache: bool,
    status_on_error: String,
    /// The old name of the next.
    include_headers_in_check: Vec<String>,
    include_request_headers_in_check: Vec<String>,
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    pub include_request_body_in_check: Option<RequestBody>,
    pub headers_to_upstream_on_allow: Vec<String>,
    pub headers_to_downstream_on_deny: Vec<String>,
    pub headers_to_downstream_on_allow: Vec<String>,
}

/// How much of a request's body is asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RequestBody {
    pub max_request_bytes: u32,
    pub allow_partial_message: bool,
    pub pack_as_bytes: bool,
}

impl Http {
    /// Headers of the request that the provider is told.
    pub fn request_headers(&self) -> &[String] {
        match self.include_request_headers_in_check.as_slice() {
            [] => &self.include_headers_in_check,
            headers => headers,
        }
    }

    /// All lists of names of headers, with their fields.
    fn headers(&self) -> [(&'static str, &[String]); 5] {
        [
            (
                "includeRequestHeadersInCheck",
                &self.include_request_headers_in_check,
            ),
            ("includeHeadersInCheck", &self.include_headers_in_check),
            (
                "headersToDownstreamOnDeny",
                &self.headers_to_downstream_on_deny,
            ),
            (
                "headersToDownstreamOnAllow",
                &self.headers_to_downstream_on_allow,
            ),
            (
                "headersToUpstreamOnAllow",
                &self.headers_to_upstream_on_allow,
            ),
        ]
    }
}

impl<'a> ExtAuthz<'a> {
    pub fn service(self) -> &'a str {
        match self {
            ExtAuthz::Grpc(grpc) => &grpc.service,
            ExtAuthz::Http(http) => &http.service,
        }
    }

    pub fn port(self) -> u32 {
        match self {
            ExtAuthz::Grpc(grpc) => grpc.port,
            ExtAuthz::Http(http) => http.port,
        }
    }

    /// What is answered where nobody answers the question; 403 unless it is given.
    pub fn status_on_error(self) -> Option<StatusCode> {
        let text = match self {
            ExtAuthz::Grpc(grpc) => &grpc.status_on_error,
            ExtAuthz::Http(http) => &http.status_on_error,
        };
        status(text)
    }

    /// The name of its kind in MeshConfig.
    pub fn kind(self) -> &'static str {
        match self {
            ExtAuthz::Grpc(_) => GRPC,
            ExtAuthz::Http(_) => HTTP,
        }
    }

    fn body(self) -> Option<&'a RequestBody> {
        match self {
            ExtAuthz::Grpc(grpc) => grpc.include_request_body_in_check.as_ref(),
            ExtAuthz::Http(http) => http.include_request_body_in_check.as_ref(),
        }
    }

    /// Why no policy can use it, though MeshConfig may say so.
    pub fn unusable(self, name: &str) -> Option<String> {
        let of_label = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if name.len() > 63 || !name.bytes().all(of_label) || !is_subdomain(name) {
            return Some(format!("{name:?} is no DNS label in lower case"));
        }
        let ExtAuthz::Http(http) = self else {
            return None;
        };
        let lists = http.headers();
        let lone = lists
            .iter()
            .find(|(_, headers)| headers.iter().any(|h| h == "*"))?;
        let (field, _) = lone;
        Some(format!(
            "{field}: \"*\" alone is none of a name, a prefix and a suffix"
        ))
    }

    fn check(self) -> Result<(), Refusal> {
        check_service(self.service(), self.port())?;
        let (ExtAuthz::Grpc(Grpc {
            status_on_error: text,
            ..
        })
        | ExtAuthz::Http(Http {
            status_on_error: text,
            ..
        })) = self;
        if !text.is_empty() && status(text).is_none() {
            return Err(refusal("statusOnError", format!("{text:?} is no status")));
        }
        if self.body().is_some_and(|body| body.max_request_bytes == 0) {
            let field = "includeRequestBodyInCheck.maxRequestBytes";
            return Err(refusal(field, "must be greater than 0"));
        }
        let ExtAuthz::Http(http) = self else {
            return Ok(());
        };
        let prefix = &http.path_prefix;
        let odd = |c: char| c.is_control() || c == ' ';
        if !prefix.is_empty() && (!prefix.starts_with('/') || prefix.contains(odd)) {
            return Err(refusal("pathPrefix", format!("{prefix:?} is no path")));
        }
        let mut names = http.include_additional_headers_in_check.keys();
        match names.find(|name| !is_token(name)) {
            Some(name) => Err(refusal(
                format!("includeAdditionalHeadersInCheck.{name}"),
                "is no name of a header",
            )),
            None => Ok(()),
        }
    }
}

impl ExtensionProvider {
    /// `None`: one of the kinds that decide nothing about requests.
    pub fn ext_authz(&self) -> Option<ExtAuthz<'_>> {
        let grpc = self.envoy_ext_authz_grpc.as_ref().map(ExtAuthz::Grpc);
        grpc.or(self.envoy_ext_authz_http.as_ref().map(ExtAuthz::Http))
    }

    /// `None`: one of the other kinds.
    pub fn telemetry(&self) -> Option<TelemetryProvider<'_>> {
        let file = self.envoy_file_access_log.as_ref();
        let otel = self.envoy_otel_als.as_ref();
        let http = self.envoy_http_als.as_ref();
        let tcp = self.envoy_tcp_als.as_ref();
        let traces = self.opentelemetry.as_ref();
        let zipkin = self.zipkin.as_ref();
        file.map(TelemetryProvider::FileLog)
            .or(otel.map(TelemetryProvider::OtelLog))
            .or(http.map(TelemetryProvider::HttpLog))
            .or(tcp.map(TelemetryProvider::TcpLog))
            .or(traces.map(TelemetryProvider::OpenTelemetry))
            .or(zipkin.map(TelemetryProvider::Zipkin))
            .or(self
                .prometheus
                .as_ref()
                .map(|_| TelemetryProvider::Prometheus))
    }

    /// The service that is asked or told, with its port.
    pub fn service(&self) -> Option<(&str, u32)> {
        if let Some(provider) = self.ext_authz() {
            return Some((provider.service(), provider.port()));
        }
        self.telemetry()?.service()
    }

    /// The name of its kind, where that isn't read.
    pub fn other_kind(&self) -> Option<&str> {
        self.others.keys().next().map(String::as_str)
    }

    fn check(&self) -> Result<(), Refusal> {
        let known = || {
            let read = [GRPC, HTTP].into_iter().chain(telemetry_provider::KINDS);
            read.chain(OTHERS.iter().copied())
        };
        let unknown = |name: &&String| !OTHERS.contains(&name.as_str());
        if let Some(name) = self.others.keys().find(unknown) {
            let reason = format!("unknown kind of provider{}", meant(name, known()));
            return Err(refusal(name.clone(), reason));
        }
        let given = [
            self.envoy_ext_authz_grpc.is_some(),
            self.envoy_ext_authz_http.is_some(),
            self.envoy_file_access_log.is_some(),
            self.envoy_otel_als.is_some(),
            self.envoy_http_als.is_some(),
            self.envoy_tcp_als.is_some(),
            self.opentelemetry.is_some(),
            self.zipkin.is_some(),
            self.prometheus.is_some(),
        ];
        match given.iter().filter(|given| **given).count() + self.others.len() {
            0 => return Err(refusal("", "says of no kind what it is")),
            1 => {}
            _ => return Err(refusal("", "may be of one kind only")),
        }
        if self.name.is_empty() {
            return Err(refusal("name", "is required"));
        }
        let below = |kind: &str, (field, reason): Refusal| (format!("{kind}.{field}"), reason);
        if let Some(provider) = self.ext_authz() {
            return provider.check().map_err(|e| below(provider.kind(), e));
        }
        match self.telemetry() {
            Some(provider) => provider.check().map_err(|e| below(provider.kind(), e)),
            None => Ok(()),
        }
    }
}

/// Checks all providers; the field of a refusal begins with the index.
pub(super) fn check(providers: &[ExtensionProvider]) -> Result<(), Refusal> {
    for (index, provider) in providers.iter().enumerate() {
        let at = |(field, reason): Refusal| match field.as_str() {
            "" => (format!("[{index}]"), reason),
            field => (format!("[{index}].{field}"), reason),
        };
        provider.check().map_err(at)?;
        let mut before = providers.iter().take(index);
        if before.any(|other| other.name == provider.name) {
            let reason = format!("{:?} is given twice", provider.name);
            return Err(at(refusal("name", reason)));
        }
    }
    Ok(())
}

/// A status that Envoy has a name for.
fn status(text: &str) -> Option<StatusCode> {
    let code = StatusCode::try_from(text.parse::<i32>().ok()?).ok()?;
    (code != StatusCode::Empty).then_some(code)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::standalone::input::strict_value::StrictValue;

    fn read(value: &Value) -> Result<Vec<ExtensionProvider>, String> {
        let read: Vec<ExtensionProvider> =
            serde_path_to_error::deserialize(StrictValue(value)).map_err(|e| e.to_string())?;
        check(&read)
            .map(|()| read)
            .map_err(|(field, reason)| format!("{field}: {reason}"))
    }

    #[test]
    fn every_field_is_read() {
        let found = read(&json!([
            {"name": "g", "envoyExtAuthzGrpc": {"service": "ns/a.test", "port": 9, "timeout": "1s", "failOpen": true,
             "clearRouteCache": true, "statusOnError": "503",
             "includeRequestBodyInCheck": {"maxRequestBytes": 1, "packAsBytes": true}}},
            {"name": "h", "envoyExtAuthzHttp": {"service": "a.test", "port": 9, "pathPrefix": "/x", "includeHeadersInCheck": ["old"]}},
            {"name": "p", "prometheus": {}},
            {"name": "s", "skywalking": {}},
        ]))
        .unwrap();
        let grpc = found[0].ext_authz().unwrap();
        assert_eq!(grpc.status_on_error(), Some(StatusCode::ServiceUnavailable));
        assert_eq!(grpc.body().map(|body| body.max_request_bytes), Some(1));
        assert_eq!(grpc.unusable("g"), None);
        let Some(ExtAuthz::Http(http)) = found[1].ext_authz() else {
            panic!("no HTTP provider");
        };
        assert_eq!(http.request_headers(), ["old"]);
        assert_eq!(found[2].telemetry(), Some(TelemetryProvider::Prometheus));
        assert_eq!(found[3].other_kind(), Some("skywalking"));
    }

    #[test]
    fn what_istiod_refuses_is_refused_by_field() {
        let http = |fields: Value| {
            let mut all = json!({"service": "a.test", "port": 9});
            let more = fields.as_object().cloned().unwrap_or_default();
            all.as_object_mut().unwrap().extend(more);
            json!([{"name": "h", "envoyExtAuthzHttp": all}])
        };
        for (value, begins) in [
            (json!([{"sds": {}}]), "[0].name: "),
            (json!([{"name": "a"}]), "[0]: says of no kind"),
            (
                json!([{"name": "a", "envoyExtAuthzHtp": {}}]),
                "[0].envoyExtAuthzHtp: unknown kind of provider; is \"envoyExtAuthzHttp\" meant?",
            ),
            (
                json!([{"name": "a", "sds": {}, "prometheus": {}}]),
                "[0]: may be",
            ),
            (
                json!([{"name": "a", "prometheus": {}}, {"name": "a", "sds": {}}]),
                "[1].name: ",
            ),
            (
                http(json!({"service": ""})),
                "[0].envoyExtAuthzHttp.service: ",
            ),
            (
                http(json!({"service": "a/b/c"})),
                "[0].envoyExtAuthzHttp.service: ",
            ),
            (http(json!({"port": 65536})), "[0].envoyExtAuthzHttp.port: "),
            (
                http(json!({"statusOnError": "299"})),
                "[0].envoyExtAuthzHttp.statusOnError: ",
            ),
            (
                http(json!({"statusOnError": "0"})),
                "[0].envoyExtAuthzHttp.statusOnError: ",
            ),
            (
                http(json!({"pathPrefix": "x"})),
                "[0].envoyExtAuthzHttp.pathPrefix: ",
            ),
            (
                http(json!({"includeRequestBodyInCheck": {}})),
                "[0].envoyExtAuthzHttp.includeRequestBodyInCheck.maxRequestBytes: ",
            ),
            (
                http(json!({"includeAdditionalHeadersInCheck": {"a b": "c"}})),
                "[0].envoyExtAuthzHttp.includeAdditionalHeadersInCheck.a b: ",
            ),
            (
                http(json!({"failOpn": true})),
                "[0].envoyExtAuthzHttp.failOpn: unknown field",
            ),
            (
                http(json!({"failOpen": "yes"})),
                "[0].envoyExtAuthzHttp.failOpen: invalid type",
            ),
            (
                http(json!({"timeout": "5"})),
                "[0].envoyExtAuthzHttp.timeout: \"5\" is no duration",
            ),
        ] {
            let error = read(&value).unwrap_err();
            assert!(error.starts_with(begins), "{value}: {error}");
        }
    }

    #[test]
    fn what_no_policy_can_use() {
        let found = read(&json!([
            {"name": "UP", "envoyExtAuthzGrpc": {"service": "a.test", "port": 9}},
            {"name": "star", "envoyExtAuthzHttp": {"service": "a.test", "port": 9, "headersToUpstreamOnAllow": ["x-*", "*"]}},
        ]))
        .unwrap();
        for (provider, part) in found.iter().zip(["DNS label", "headersToUpstreamOnAllow"]) {
            let reason = provider
                .ext_authz()
                .unwrap()
                .unusable(&provider.name)
                .unwrap();
            assert!(reason.contains(part), "{reason}");
        }
    }
}
