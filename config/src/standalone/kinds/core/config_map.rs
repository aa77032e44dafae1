//! MeshConfig: the settings of the mesh, YAML inside the ConfigMap `istio` of `istio-system`.
//!
//! Fields that could change what a waypoint does and aren't honoured are named; fields that speak to other
//! parts of the mesh are passed over. Without the ConfigMap the defaults of Istio's chart hold, which has
//! Prometheus metrics on; a ConfigMap without `defaultProviders` turns them off, as with istiod.

use std::time::Duration;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::{LoadError, Problem, Severity};
use crate::standalone::input::strict_value::StrictValue;
use crate::standalone::input::yaml;
use crate::standalone::kinds::core::config_map_fields::set;
use crate::standalone::kinds::core::config_map_fields::unknown_fields;
use crate::standalone::kinds::core::config_map_fields::{NOT_HONOURED, PROXY_NOT_HONOURED};

/// Name and namespace of the ConfigMap.
pub const MESH_CONFIG: (&str, &str) = ("istio-system", "istio");

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    /// Empty: no access log.
    pub access_log_file: String,
    /// Empty: Istio's own.
    pub access_log_format: String,
    pub access_log_encoding: Encoding,
    pub trust_domain: String,
    pub trust_domain_aliases: Vec<String>,
    pub root_namespace: String,
    pub path_normalization: PathNormalization,
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Duration,
    #[serde(deserialize_with = "optional_duration")]
    pub hbone_idle_timeout: Option<Duration>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub default_http_retry_policy: Option<RetryPolicy>,
    pub enable_tracing: bool,
    pub default_providers: DefaultProviders,
    pub default_config: ProxyConfig,
}

impl Default for MeshConfig {
    fn default() -> MeshConfig {
        MeshConfig {
            access_log_file: String::new(),
            access_log_format: String::new(),
            access_log_encoding: Encoding::Text,
            trust_domain: "cluster.local".to_owned(),
            trust_domain_aliases: Vec::new(),
            root_namespace: MESH_CONFIG.0.to_owned(),
            path_normalization: PathNormalization::default(),
            connect_timeout: Duration::from_secs(10),
            hbone_idle_timeout: None,
            tcp_keepalive: None,
            default_http_retry_policy: None,
            enable_tracing: true,
            default_providers: DefaultProviders::default(),
            default_config: ProxyConfig::default(),
        }
    }
}

/// How lines of the access log are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Encoding {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PathNormalization {
    pub normalization: Normalization,
}

/// What is made of a request's path before anything looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Normalization {
    /// Same as `Base`.
    #[default]
    Default,
    None,
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

/// Socket keepalive; 0 leaves the kernel's value.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpKeepalive {
    pub probes: u32,
    #[serde(deserialize_with = "optional_duration")]
    pub time: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub interval: Option<Duration>,
}

/// `defaultHttpRetryPolicy`, and the retries of a route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RetryPolicy {
    pub attempts: i32,
    pub retry_on: String,
    #[serde(deserialize_with = "optional_duration")]
    pub per_try_timeout: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub backoff: Option<Duration>,
    pub retry_ignore_previous_hosts: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultProviders {
    pub metrics: Vec<String>,
    pub tracing: Vec<String>,
    pub access_logging: Vec<String>,
}

/// The part of `defaultConfig` that reaches a waypoint's listeners.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    pub tracing: Tracing,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// Percent of requests that start a trace.
    pub sampling: Option<f64>,
}

impl MeshConfig {
    /// What holds without a ConfigMap: the chart's defaults.
    pub fn of_chart() -> MeshConfig {
        MeshConfig {
            default_providers: DefaultProviders {
                metrics: vec!["prometheus".to_owned()],
                ..DefaultProviders::default()
            },
            ..MeshConfig::default()
        }
    }

    /// Reads `data.mesh` of the ConfigMap, and names what isn't honoured.
    pub fn read(manifest: &Manifest) -> Result<(MeshConfig, Vec<Problem>), LoadError> {
        let data: Map<String, Value> = manifest.part("data")?;
        let text = match data.get("mesh") {
            None => "",
            Some(Value::String(text)) => text,
            Some(_) => return Err(manifest.refused("data.mesh", "must be a string")),
        };
        let value = yaml::embedded(text).map_err(|reason| manifest.refused("data.mesh", reason))?;
        let value = match value {
            Value::Null => Value::Object(Map::new()),
            value => value,
        };
        let mesh: MeshConfig =
            serde_path_to_error::deserialize(StrictValue(&value)).map_err(|error| {
                manifest.refused(
                    format!("data.mesh.{}", error.path()),
                    error.inner().to_string(),
                )
            })?;
        mesh.check(manifest)?;
        Ok((mesh.clone(), mesh.not_honoured(manifest, &value)))
    }

    fn check(&self, manifest: &Manifest) -> Result<(), LoadError> {
        let domains = std::iter::once(&self.trust_domain).chain(&self.trust_domain_aliases);
        for domain in domains {
            let valid = !domain.is_empty()
                && domain
                    .bytes()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'));
            if !valid {
                let reason = format!("{domain:?} is no trust domain");
                return Err(manifest.refused("data.mesh.trustDomain", reason));
            }
        }
        if let Some(sampling) = self.default_config.tracing.sampling
            && !(0.0..=100.0).contains(&sampling)
        {
            let field = "data.mesh.defaultConfig.tracing.sampling";
            return Err(manifest.refused(field, "must be between 0 and 100"));
        }
        Ok(())
    }

    fn not_honoured(&self, manifest: &Manifest, value: &Value) -> Vec<Problem> {
        let ignored =
            |field: String, reason: &str| manifest.problem(Severity::Ignored, field, reason);
        let mut problems = unknown_fields(manifest, value);
        for name in NOT_HONOURED.iter().filter(|name| set(value.get(**name))) {
            problems.push(ignored(format!("data.mesh.{name}"), "is not honoured"));
        }
        let proxy = value.get("defaultConfig");
        for name in PROXY_NOT_HONOURED
            .iter()
            .filter(|name| set(proxy.and_then(|p| p.get(**name))))
        {
            problems.push(ignored(
                format!("data.mesh.defaultConfig.{name}"),
                "is not honoured",
            ));
        }
        let tracing = proxy.and_then(|proxy| proxy.get("tracing"));
        let fields = tracing.and_then(Value::as_object).into_iter().flatten();
        for (name, _) in fields.filter(|(name, value)| *name != "sampling" && set(Some(value))) {
            let field = format!("data.mesh.defaultConfig.tracing.{name}");
            problems.push(ignored(field, "is not honoured"));
        }
        let providers = &self.default_providers;
        let unknown = providers
            .metrics
            .iter()
            .filter(|name| *name != "prometheus")
            .map(|name| ("metrics", name));
        let unknown = unknown
            .chain(providers.tracing.iter().map(|name| ("tracing", name)))
            .chain(
                providers
                    .access_logging
                    .iter()
                    .filter(|n| *n != "envoy")
                    .map(|n| ("accessLogging", n)),
            );
        for (list, name) in unknown {
            let reason = format!("provider {name:?} is not honoured");
            problems.push(ignored(
                format!("data.mesh.defaultProviders.{list}"),
                &reason,
            ));
        }
        problems
    }

    /// Trust domain and aliases, each once, the domain first.
    pub fn trust_domains(&self) -> Vec<String> {
        let mut domains = vec![self.trust_domain.clone()];
        for alias in &self.trust_domain_aliases {
            if !domains.contains(alias) {
                domains.push(alias.clone());
            }
        }
        domains
    }

    /// Whether `istio.stats` stands on every chain.
    pub fn prometheus(&self) -> bool {
        self.default_providers
            .metrics
            .iter()
            .any(|name| name == "prometheus")
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .ok_or_else(|| D::Error::custom(format!("{text:?} is no duration such as 10s")))
}

pub(crate) fn optional_duration<'de, D>(deserializer: D) -> Result<Option<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    duration(deserializer).map(Some)
}

/// A duration as Go writes it: numbers with the units h, m, s, ms, us or ns, or a bare 0.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let seconds = match rest.get(..unit)? {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number * seconds;
        rest = rest.get(unit..)?;
    }
    if text.is_empty() {
        None
    } else {
        Duration::try_from_secs_f64(total).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;

    fn mesh(text: &str) -> Result<(MeshConfig, Vec<Problem>), LoadError> {
        let indented = text
            .lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>();
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{indented}"
        );
        MeshConfig::read(&Manifest::of(&text))
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("0.5s", 500),
            ("50ms", 50),
            ("0", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in ["", "10", "s", "1x", "-1s", "1..s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn reads_and_names_what_is_not_honoured() {
        let (found, problems) = mesh(
            "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\ntrustDomain: a\ntrustDomainAliases: [b, a]\npathNormalization: {normalization: MERGE_SLASHES}\nextensionProviders: [{name: x}]\ndefaultProviders: {metrics: [prometheus], tracing: [zipkin]}\ningressClass: istio",
        )
        .unwrap();
        assert_eq!(found.trust_domains(), ["a", "b"]);
        assert!(found.prometheus());
        assert_eq!(
            found.path_normalization.normalization,
            Normalization::MergeSlashes
        );
        let fields: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "data.mesh.extensionProviders",
                "data.mesh.defaultProviders.tracing"
            ]
        );
        assert!(!mesh("{}").unwrap().0.prometheus());
        assert!(MeshConfig::of_chart().prometheus());
    }

    #[test]
    fn errors_name_the_field() {
        for (text, field) in [
            ("trustDomain: y", "data.mesh.trustDomain"),
            ("trustDomain: a/b", "data.mesh.trustDomain"),
            ("connectTimeout: 10", "data.mesh.connectTimeout"),
            (
                "pathNormalization: {normalization: SOME}",
                "data.mesh.pathNormalization.normalization",
            ),
            (
                "defaultHttpRetryPolicy: {attempt: 1}",
                "data.mesh.defaultHttpRetryPolicy.attempt",
            ),
            ("a: [", "data.mesh"),
        ] {
            assert_eq!(
                mesh(text).unwrap_err().field.as_deref(),
                Some(field),
                "{text}"
            );
        }
    }
}
