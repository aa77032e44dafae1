//! The fields of MeshConfig: which are honoured, which aren't, and which speak to other parts of the mesh.

use serde_json::{Map, Value};

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::near::meant;
use crate::standalone::input::problem::{Problem, Severity};
use crate::standalone::input::yaml;
use crate::standalone::kinds::core::tls_defaults;

/// Top-level fields that reach a waypoint's configuration and aren't honoured.
pub(crate) const NOT_HONOURED: &[&str] = &[
    "caCertificates",
    "discoverySelectors",
    "enableEnvoyAccessLogService",
    "inboundClusterStatName",
    "outboundClusterStatName",
    "serviceEntryVisibility",
];
/// Top-level fields that are honoured.
const HONOURED: &[&str] = &[
    "accessLogEncoding",
    "accessLogFile",
    "accessLogFormat",
    "connectTimeout",
    "defaultConfig",
    "defaultDestinationRuleExportTo",
    "defaultHttpRetryPolicy",
    "defaultProviders",
    "defaultServiceExportTo",
    "defaultTrafficPolicy",
    "defaultVirtualServiceExportTo",
    "disableEnvoyListenerLog",
    "dnsRefreshRate",
    "enableAutoMtls",
    "enableTracing",
    "extensionProviders",
    "h2UpgradePolicy",
    "hboneIdleTimeout",
    "localityLbSetting",
    "pathNormalization",
    "rootNamespace",
    "tcpKeepalive",
    "tlsDefaults",
    "trustDomain",
    "trustDomainAliases",
    "zoneAwareLbSetting",
];
/// All other top-level fields of MeshConfig: they speak to other parts of the mesh.
const OF_OTHERS: &[&str] = &[
    "ca",
    "certificates",
    "configSources",
    "enablePrometheusMerge",
    "inboundTrafficPolicy",
    "ingressClass",
    "ingressControllerMode",
    "ingressSelector",
    "ingressService",
    "meshMTLS",
    "outboundTrafficPolicy",
    "protocolDetectionTimeout",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "serviceScopeConfigs",
    "serviceSettings",
    "verifyCertificateAtClient",
];
/// Fields of the messages in it that are read whole.
const KNOWN_BELOW: &[(&str, &[&str])] = &[
    ("defaultProviders", &["accessLogging", "metrics", "tracing"]),
    ("meshMTLS", tls_defaults::FIELDS),
    ("pathNormalization", &["normalization"]),
    ("tlsDefaults", tls_defaults::FIELDS),
];
/// Fields of `defaultConfig` that are honoured.
const PROXY_HONOURED: &[&str] = &["connectionSettings", "proxyHeaders", "tracing"];
/// The other fields of `defaultConfig`: they are for a proxy's process and for other proxies.
const PROXY_OF_OTHERS: &[&str] = &[
    "availabilityZone",
    "binaryPath",
    "caCertificatesPem",
    "clusterName",
    "concurrency",
    "configPath",
    "controlPlaneAuthPolicy",
    "customConfigFile",
    "discoveryAddress",
    "discoveryRefreshDelay",
    "drainDuration",
    "envoyAccessLogService",
    "envoyMetricsService",
    "envoyMetricsServiceAddress",
    "extraStatTags",
    "fileFlushInterval",
    "fileFlushMinSizeKb",
    "gatewayTopology",
    "holdApplicationUntilProxyStarts",
    "image",
    "interceptionMode",
    "meshId",
    "privateKeyProvider",
    "proxyAdminPort",
    "proxyBootstrapTemplatePath",
    "proxyMetadata",
    "proxyStatsMatcher",
    "readinessProbe",
    "runtimeValues",
    "sds",
    "serviceCluster",
    "statNameLength",
    "statsCompression",
    "statsdUdpAddress",
    "statusPort",
    "terminationDrainDuration",
    "zipkinAddress",
];

/// The variable of `proxyMetadata` that reaches a waypoint's listeners: `"1"` has it take HTTP/1.0.
pub(crate) const HTTP_10: &str = "ISTIO_META_HTTP10";

/// Whether a field says something.
pub(crate) fn set(value: Option<&Value>) -> bool {
    value.is_some_and(|value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    })
}

/// Settings that are given and speak to other parts of the mesh.
pub fn of_others(manifest: &Manifest) -> Vec<String> {
    let text = manifest.body.get("data").and_then(|data| data.get("mesh"));
    let value = yaml::embedded(text.and_then(Value::as_str).unwrap_or_default());
    let value = value.unwrap_or_default();
    let given = |of: Option<&Value>, names: &[&str], before: &str| -> Vec<String> {
        let names = names.iter();
        let given = names.filter(|name| set(of.and_then(|of| of.get(**name))));
        given.map(|name| format!("{before}{name}")).collect()
    };
    let mut found = given(Some(&value), OF_OTHERS, "");
    let of_servers = &["minProtocolVersion"];
    found.extend(given(value.get("tlsDefaults"), of_servers, "tlsDefaults."));
    let proxy = value.get("defaultConfig");
    let metadata = proxy.and_then(|proxy| proxy.get("proxyMetadata")?.as_object());
    let is_read = metadata.is_some_and(|all| all.keys().all(|name| name == HTTP_10));
    let of_proxy = given(proxy, PROXY_OF_OTHERS, "defaultConfig.");
    let of_proxy = of_proxy.into_iter();
    found.extend(of_proxy.filter(|field| !(is_read && field == "defaultConfig.proxyMetadata")));
    found
}

/// What is misspelt, or newer than this reader.
pub(crate) fn unknown_fields(manifest: &Manifest, value: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    let fields = value.as_object().into_iter().flat_map(Map::keys);
    let all = || {
        [HONOURED, OF_OTHERS, NOT_HONOURED]
            .into_iter()
            .flatten()
            .copied()
    };
    for name in fields.filter(|name| !all().any(|known| known == name.as_str())) {
        let field = format!("data.mesh.{name}");
        let reason = format!("unknown field{}", meant(name, all()));
        problems.push(manifest.problem(Severity::NoEffect, field, reason));
    }
    let proxy = [PROXY_HONOURED, PROXY_OF_OTHERS].concat();
    let below = KNOWN_BELOW
        .iter()
        .map(|(outer, known)| (*outer, known.to_vec()));
    for (outer, known) in below.chain([("defaultConfig", proxy)]) {
        let fields = value.get(outer).and_then(Value::as_object);
        let fields = fields.into_iter().flat_map(Map::keys);
        for name in fields.filter(|name| !known.contains(&name.as_str())) {
            let field = format!("data.mesh.{outer}.{name}");
            let reason = format!("unknown field{}", meant(name, known.iter().copied()));
            problems.push(manifest.problem(Severity::NoEffect, field, reason));
        }
    }
    problems
}
