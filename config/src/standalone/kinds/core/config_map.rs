//! MeshConfig: the settings of the mesh, YAML inside the ConfigMap `istio` of `istio-system`.
//!
//! Fields that could change what a waypoint does and aren't honoured are named; fields that speak to other
//! parts of the mesh are passed over. Without the ConfigMap the defaults of Istio's chart hold, which has
//! Prometheus metrics on; a ConfigMap without `defaultProviders` turns them off, as with istiod.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::standalone::input::duration::{duration, optional_duration};
use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::{LoadError, Problem, Severity};
use crate::standalone::input::strict_value::StrictValue;
use crate::standalone::input::yaml;
use crate::standalone::kinds::core::config_map_fields::NOT_HONOURED;
use crate::standalone::kinds::core::config_map_fields::set;
use crate::standalone::kinds::core::config_map_fields::unknown_fields;
use crate::standalone::kinds::core::extension_provider::{self, BUILT_IN, ExtensionProvider};
use crate::standalone::kinds::core::proxy_config::{
    ProxyConfig, unread_of_tracing, without_effect,
};
use crate::standalone::kinds::core::tls_defaults::{OfSidecars, TlsDefaults};
use crate::standalone::kinds::refusal::{Refusal, below, refusal};
use crate::standalone::kinds::traffic_policy::locality::{LocalityLb, ZoneAwareLb};
use crate::standalone::kinds::traffic_policy::{DefaultTrafficPolicy, OfMesh};

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
    /// How long until hosts are looked up again that nobody was found for.
    #[serde(deserialize_with = "duration")]
    pub dns_refresh_rate: Duration,
    #[serde(deserialize_with = "optional_duration")]
    pub hbone_idle_timeout: Option<Duration>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub default_http_retry_policy: Option<RetryPolicy>,
    pub locality_lb_setting: Option<LocalityLb>,
    pub zone_aware_lb_setting: Option<ZoneAwareLb>,
    pub h2_upgrade_policy: UpgradeToHttp2,
    pub default_traffic_policy: DefaultTrafficPolicy,
    /// Of TLS that a waypoint begins for rules and policies.
    pub tls_defaults: TlsDefaults,
    #[serde(rename = "meshMTLS")]
    pub mesh_mtls: OfSidecars,
    /// Whether proxies find out which pods of others have a sidecar; `None`: they do.
    pub enable_auto_mtls: Option<bool>,
    /// Where Services and ServiceEntries are known that don't say it; empty: everywhere.
    pub default_service_export_to: Vec<String>,
    /// Where VirtualServices count that don't say it; `None`: everywhere.
    pub default_virtual_service_export_to: Option<Vec<String>>,
    pub default_destination_rule_export_to: Vec<String>,
    pub enable_tracing: bool,
    /// Connections that find no filter chain aren't logged.
    pub disable_envoy_listener_log: bool,
    pub default_providers: DefaultProviders,
    pub extension_providers: Vec<ExtensionProvider>,
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
            dns_refresh_rate: Duration::from_secs(60),
            hbone_idle_timeout: None,
            tcp_keepalive: None,
            default_http_retry_policy: None,
            locality_lb_setting: None,
            zone_aware_lb_setting: None,
            h2_upgrade_policy: UpgradeToHttp2::default(),
            default_traffic_policy: DefaultTrafficPolicy::default(),
            tls_defaults: TlsDefaults::default(),
            mesh_mtls: OfSidecars::default(),
            enable_auto_mtls: None,
            default_service_export_to: Vec::new(),
            default_virtual_service_export_to: None,
            default_destination_rule_export_to: Vec::new(),
            enable_tracing: true,
            disable_envoy_listener_log: false,
            default_providers: DefaultProviders::default(),
            extension_providers: Vec::new(),
            default_config: ProxyConfig::default(),
        }
    }
}

/// Whether endpoints that speak HTTP/1.1 are spoken to by HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UpgradeToHttp2 {
    #[default]
    DoNotUpgrade,
    Upgrade,
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
    pub retry_remote_localities: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultProviders {
    pub metrics: Vec<String>,
    pub tracing: Vec<String>,
    pub access_logging: Vec<String>,
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
        self.default_config.check().map_err(|(field, reason)| {
            manifest.refused(format!("data.mesh.defaultConfig.{field}"), reason)
        })?;
        self.check_traffic()
            .map_err(|(field, reason)| manifest.refused(format!("data.mesh.{field}"), reason))?;
        extension_provider::check(&self.extension_providers).map_err(|(field, reason)| {
            manifest.refused(format!("data.mesh.extensionProviders{field}"), reason)
        })
    }

    fn check_traffic(&self) -> Result<(), Refusal> {
        if let Some(setting) = &self.locality_lb_setting {
            setting.check().map_err(below("localityLbSetting"))?;
        }
        if let Some(setting) = &self.zone_aware_lb_setting {
            setting.check().map_err(below("zoneAwareLbSetting"))?;
        }
        if self.dns_refresh_rate < Duration::from_millis(1) {
            return Err(refusal("dnsRefreshRate", "must be a millisecond at least"));
        }
        self.mesh_mtls.check().map_err(below("meshMTLS"))?;
        let policy = &self.default_traffic_policy;
        policy.check().map_err(below("defaultTrafficPolicy"))
    }

    /// Whether DestinationRules that don't say where they count are for their own namespace alone.
    pub fn keeps_rules_private(&self) -> bool {
        let mut to = self.default_destination_rule_export_to.iter();
        to.any(|to| to == ".")
    }

    /// What holds for every cluster of a port, unless a rule or its service says something else.
    pub fn of_clusters(&self, speaks_http: bool) -> OfMesh<'_> {
        OfMesh {
            locality: self.locality_lb_setting.as_ref(),
            zone_aware: self.zone_aware_lb_setting.as_ref(),
            upgrades: speaks_http && self.h2_upgrade_policy == UpgradeToHttp2::Upgrade,
        }
    }

    fn not_honoured(&self, manifest: &Manifest, value: &Value) -> Vec<Problem> {
        let ignored =
            |field: String, reason: &str| manifest.problem(Severity::Ignored, field, reason);
        let mut problems = unknown_fields(manifest, value);
        for name in NOT_HONOURED.iter().filter(|name| set(value.get(**name))) {
            problems.push(ignored(format!("data.mesh.{name}"), "is not honoured"));
        }
        if let Some((field, reason)) = self.tls_defaults.unspoken() {
            let reason = format!("{reason}: clusters that begin TLS are refused");
            let field = format!("data.mesh.tlsDefaults.{field}");
            problems.push(manifest.problem(Severity::FailClosed, field, reason));
        }
        let proxy = value.get("defaultConfig");
        for found in proxy.map(without_effect).unwrap_or_default() {
            let field = format!("data.mesh.defaultConfig.{}", found.field);
            problems.push(manifest.problem(Severity::NoEffect, field, found.reason));
        }
        for field in proxy.map(unread_of_tracing).unwrap_or_default() {
            let field = format!("data.mesh.defaultConfig.{field}");
            problems.push(ignored(field, "is not honoured"));
        }
        for (index, provider) in self.extension_providers.iter().enumerate() {
            let place = format!("data.mesh.extensionProviders[{index}]");
            if let Some(kind) = provider.other_kind() {
                problems.push(ignored(format!("{place}.{kind}"), "is not honoured"));
            }
            if let Some(telemetry) = provider.telemetry() {
                let place = format!("{place}.{}", telemetry.kind());
                for field in telemetry.not_honoured() {
                    problems.push(ignored(format!("{place}.{field}"), "is not honoured"));
                }
            }
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

    /// Extension providers: those that every mesh has, and its own, which stand above those of the same name.
    pub fn providers(&self) -> impl Iterator<Item = &ExtensionProvider> {
        let own = &self.extension_providers;
        let built_in = BUILT_IN.iter().map(|provider| {
            let other = own.iter().find(|other| other.name == provider.name);
            other.unwrap_or(provider)
        });
        let is_more = |provider: &&ExtensionProvider| {
            let mut names = BUILT_IN.iter().map(|built_in| &built_in.name);
            !names.any(|name| *name == provider.name)
        };
        built_in.chain(own.iter().filter(is_more))
    }

    /// The provider that telemetry means by this name, in whatever case.
    pub fn provider_named(&self, name: &str) -> Option<&ExtensionProvider> {
        let mut providers = self.providers();
        providers.find(|provider| provider.name.eq_ignore_ascii_case(name))
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
    fn reads_and_names_what_is_not_honoured() {
        let (found, problems) = mesh(
            "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\ntrustDomain: a\ntrustDomainAliases: [b, a]\npathNormalization: {normalization: MERGE_SLASHES}\nextensionProviders: [{name: x, datadog: {}}, {name: b, envoyExtAuthzGrpc: {service: a.test, port: 1}}]\ndefaultProviders: {metrics: [prometheus], tracing: [x]}\ndefaultConfig: {tracing: {sampling: 1, openCensusAgent: {address: x}}}\ningressClass: istio",
        )
        .unwrap();
        assert_eq!(found.trust_domains(), ["a", "b"]);
        let named = |name| found.provider_named(name).map(|p| p.name.as_str());
        assert_eq!(named("Prometheus"), Some("prometheus"));
        assert_eq!((named("X"), named("y")), (Some("x"), None));
        assert_eq!(
            found.path_normalization.normalization,
            Normalization::MergeSlashes
        );
        let fields: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "data.mesh.defaultConfig.tracing.openCensusAgent",
                "data.mesh.extensionProviders[0].datadog",
            ]
        );
        let metrics = |config: MeshConfig| config.default_providers.metrics;
        assert!(metrics(mesh("{}").unwrap().0).is_empty());
        assert_eq!(metrics(MeshConfig::of_chart()), ["prometheus"]);
    }

    #[test]
    fn errors_name_the_field() {
        for (text, field) in [
            ("trustDomain: y", "data.mesh.trustDomain"),
            ("trustDomain: a/b", "data.mesh.trustDomain"),
            ("connectTimeout: 10", "data.mesh.connectTimeout"),
            (
                "localityLbSetting: {distribute: [{from: a, to: {b: 50}}]}",
                "data.mesh.localityLbSetting.distribute[0].to",
            ),
            (
                "zoneAwareLbSetting: {failover: [{from: a, to: a}]}",
                "data.mesh.zoneAwareLbSetting.failover[0]",
            ),
            (
                "defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}",
                "data.mesh.defaultTrafficPolicy.connectionPool.tcp.maxConnections",
            ),
            ("h2UpgradePolicy: DEFAULT", "data.mesh.h2UpgradePolicy"),
            (
                "pathNormalization: {normalization: SOME}",
                "data.mesh.pathNormalization.normalization",
            ),
            (
                "defaultHttpRetryPolicy: {attempt: 1}",
                "data.mesh.defaultHttpRetryPolicy.attempt",
            ),
            (
                "extensionProviders: [{name: x, envoyExtAuthzGrpc: {port: 1}}]",
                "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.service",
            ),
            (
                "extensionProviders: [{name: x, envoyExtAuthzGrpc: {prt: 1}}]",
                "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.prt",
            ),
            (
                "defaultConfig: {tracing: {customTags: {a: {formatter: {value: b}}}}}",
                "data.mesh.defaultConfig.tracing.customTags",
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
