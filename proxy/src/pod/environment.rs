//! Arguments, environment and files of the pod, parsed. What has no effect here is named, once, in the log.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use waypoint_config::xds::channel::ControlPlane;
use waypoint_hbone::identity::{Identity, IdentityError};

/// Where istiod is unless `PROXY_CONFIG` says otherwise; the template leaves the default out.
const DISCOVERY_ADDRESS: &str = "istiod.istio-system.svc:15012";
/// The newest Istio that this is tested with, reported unless `ISTIO_META_ISTIO_VERSION` says otherwise.
const ISTIO_VERSION: &str = "1.31.0";
const TOKEN: &str = "var/run/secrets/tokens/istio-token";
const ROOT: &str = "var/run/secrets/istio/root-cert.pem";
const CRL: &str = "var/run/secrets/istio/crl/ca-crl.pem";
const LABELS: &str = "etc/istio/pod/labels";
const ANNOTATIONS: &str = "etc/istio/pod/annotations";

/// Drain for as long as something runs: kubelet's grace period is the limit then.
const UNTIL_IDLE: Duration = Duration::from_secs(24 * 3600);

/// Settings of Istio's agent that are read and have no effect here.
const WITHOUT_EFFECT: &[&str] = &[
    "ISTIO_BOOTSTRAP",
    "ISTIO_BOOTSTRAP_OVERRIDE",
    "JWT_POLICY",
    "CREDENTIAL_FETCHER_TYPE",
    "WORKLOAD_RSA_KEY_SIZE",
    "ECC_SIGNATURE_ALGORITHM",
    "ECC_CURVE",
    "PKCS8_KEY",
    "PROV_CERT",
    "FILE_MOUNTED_CERTS",
    "OUTPUT_CERTS",
    "ENVOY_SECURE_METRICS_PORT",
    "ENVOY_SECURE_MERGED_METRICS_PORT",
    "COMPLIANCE_POLICY",
];

/// What is known of the pod.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) pod_name: String,
    pub(crate) namespace: String,
    pub(crate) domain: String,
    pub(crate) service_cluster: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) identity: Identity,
    pub(crate) istio_version: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// `ISTIO_META_*` and `ISTIO_METAJSON_*`, without their prefixes.
    pub(crate) metadata: Map<String, Value>,
    pub(crate) proxy_config: Map<String, Value>,
    pub(crate) discovery: ControlPlane,
    pub(crate) ca: ControlPlane,
    pub(crate) certificate_ttl: Duration,
    /// Where CRLs are mounted, if they are.
    pub(crate) crl: PathBuf,
    pub(crate) trust_grace: Duration,
    /// `None`: one thread per core.
    pub(crate) concurrency: Option<u16>,
    pub(crate) drain: Duration,
    pub(crate) log: String,
    pub(crate) ports: Ports,
    /// Given, understood, and without effect.
    pub(crate) ignored: Vec<String>,
}

/// Where the pod listens: Istio's ports, unless `WAYPOINT_*_ADDR` say otherwise (several on one host).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) hbone: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) readiness: SocketAddr,
    pub(crate) stats: SocketAddr,
    pub(crate) prometheus: SocketAddr,
}

impl Ports {
    fn read(variables: &BTreeMap<String, String>) -> Result<Ports, EnvironmentError> {
        let address = |name: &str, default: SocketAddr| match variables.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|e| invalid(name, text, e)),
        };
        let all = |name: &str, default: u16| {
            let text = variables.get(name).map(String::as_str);
            port(name, text, default)
        };
        Ok(Ports {
            hbone: address("WAYPOINT_HBONE_ADDR", SocketAddr::from(([0u16; 8], 15008)))?,
            admin: address(
                "WAYPOINT_ADMIN_ADDR",
                SocketAddr::from(([127, 0, 0, 1], 15000)),
            )?,
            readiness: address("WAYPOINT_READINESS_ADDR", all("ENVOY_STATUS_PORT", 15021)?)?,
            stats: address(
                "WAYPOINT_STATS_ADDR",
                SocketAddr::from(([0, 0, 0, 0], 15020)),
            )?,
            prometheus: address(
                "WAYPOINT_PROMETHEUS_ADDR",
                all("ENVOY_PROMETHEUS_PORT", 15090)?,
            )?,
        })
    }
}

/// What the container was started with can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvironmentError {
    #[error("the environment variable {0} is not set")]
    Missing(&'static str),
    #[error("{name}={value:?}: {reason}")]
    Invalid {
        name: String,
        value: String,
        reason: String,
    },
    #[error("the only proxy type is `waypoint`, not {0:?}")]
    ProxyType(String),
    #[error("the pod's identity: {0}")]
    Identity(#[from] IdentityError),
}

fn invalid(name: &str, value: &str, reason: impl ToString) -> EnvironmentError {
    EnvironmentError::Invalid {
        name: name.to_owned(),
        value: value.to_owned(),
        reason: reason.to_string(),
    }
}

/// What the pod is made of: variables by name, and the folder that stands for `/`.
pub(crate) struct Sources<'a> {
    pub(crate) arguments: &'a [String],
    pub(crate) variables: &'a BTreeMap<String, String>,
    pub(crate) root: PathBuf,
}

impl Environment {
    /// Reads it all; files that aren't there are empty.
    pub(crate) fn read(sources: &Sources<'_>) -> Result<Environment, EnvironmentError> {
        let variable = |name: &str| sources.variables.get(name).map(String::as_str);
        let needed = |name: &'static str| {
            variable(name)
                .filter(|v| !v.is_empty())
                .ok_or(EnvironmentError::Missing(name))
        };
        let flags = Flags::parse(sources.arguments)?;
        let namespace = needed("POD_NAMESPACE")?.to_owned();
        let service_account = needed("SERVICE_ACCOUNT")?.to_owned();
        let trust_domain = variable("TRUST_DOMAIN")
            .filter(|v| !v.is_empty())
            .unwrap_or("cluster.local");
        let proxy_config = match variable("PROXY_CONFIG")
            .map(str::trim)
            .filter(|v| !v.is_empty())
        {
            None => Map::new(),
            Some(text) => object("PROXY_CONFIG", text)?,
        };
        let metadata = metadata(sources.variables)?;
        let text = |map: &Map<String, Value>, name: &str| {
            map.get(name)
                .and_then(Value::as_str)
                .filter(|v| !v.is_empty())
                .map(str::to_owned)
        };
        let cluster_id = text(&metadata, "CLUSTER_ID").unwrap_or_else(|| "Kubernetes".into());
        let discovery_address =
            text(&proxy_config, "discoveryAddress").unwrap_or_else(|| DISCOVERY_ADDRESS.into());
        let ca_address = variable("CA_ADDR")
            .filter(|v| !v.is_empty())
            .unwrap_or(&discovery_address)
            .to_owned();
        let plane = |address: &str, plain: bool, prefix: &str, root_variable: &str| ControlPlane {
            address: address.to_owned(),
            server_name: variable("ISTIOD_SAN")
                .filter(|v| !v.is_empty())
                .map(str::to_owned),
            root: (!plain).then(|| {
                variable(root_variable)
                    .filter(|v| !v.is_empty())
                    .map_or_else(|| sources.root.join(ROOT), PathBuf::from)
            }),
            token: sources.root.join(TOKEN),
            cluster_id: cluster_id.clone(),
            headers: headers(sources.variables, prefix),
        };
        let plaintext = text(&proxy_config, "controlPlaneAuthPolicy").as_deref() == Some("NONE");
        let mut ignored = flags.ignored;
        ignored.extend(
            WITHOUT_EFFECT
                .iter()
                .filter(|n| variable(n).is_some())
                .map(|n| (*n).to_owned()),
        );
        Ok(Environment {
            discovery: plane(&discovery_address, plaintext, "XDS_HEADER_", "XDS_ROOT_CA"),
            ca: plane(
                &ca_address,
                ca_address.ends_with(":15010"),
                "CA_HEADER_",
                "CA_ROOT_CA",
            ),
            pod_name: needed("POD_NAME")?.to_owned(),
            domain: flags
                .domain
                .unwrap_or_else(|| format!("{namespace}.svc.cluster.local")),
            service_cluster: flags
                .service_cluster
                .unwrap_or_else(|| format!("{service_account}.{namespace}")),
            addresses: addresses(needed("INSTANCE_IP")?)?,
            identity: Identity::istio(trust_domain, &namespace, &service_account)?,
            istio_version: text(&metadata, "ISTIO_VERSION").unwrap_or_else(|| ISTIO_VERSION.into()),
            labels: downward(&sources.root.join(LABELS)),
            annotations: downward(&sources.root.join(ANNOTATIONS)),
            certificate_ttl: seconds(
                "SECRET_TTL",
                variable("SECRET_TTL"),
                Duration::from_secs(24 * 3600),
            )?,
            crl: sources.root.join(CRL),
            trust_grace: seconds(
                "WAYPOINT_TRUST_GRACE",
                variable("WAYPOINT_TRUST_GRACE"),
                Duration::from_secs(3600),
            )?,
            concurrency: concurrency(
                flags.concurrency,
                &proxy_config,
                variable("ISTIO_CPU_LIMIT"),
            )?,
            drain: if variable("EXIT_ON_ZERO_ACTIVE_CONNECTIONS") == Some("true") {
                UNTIL_IDLE
            } else {
                seconds(
                    "PROXY_CONFIG.terminationDrainDuration",
                    text(&proxy_config, "terminationDrainDuration").as_deref(),
                    Duration::from_secs(5),
                )?
            },
            log: flags.log.unwrap_or_else(|| "info".into()),
            ports: Ports::read(sources.variables)?,
            namespace,
            metadata,
            proxy_config,
            ignored,
        })
    }

    /// The service account of the pod.
    pub(crate) fn service_account(&self) -> &str {
        self.identity.service_account().unwrap_or_default()
    }
}

#[derive(Default)]
struct Flags {
    domain: Option<String>,
    service_cluster: Option<String>,
    log: Option<String>,
    concurrency: Option<u16>,
    ignored: Vec<String>,
}

impl Flags {
    /// Istio's agent tolerates flags that it doesn't know; so does this.
    fn parse(arguments: &[String]) -> Result<Flags, EnvironmentError> {
        let mut flags = Flags::default();
        let mut arguments = arguments.iter().peekable();
        if let Some(kind) = arguments.next_if(|a| !a.starts_with('-'))
            && kind != "waypoint"
        {
            return Err(EnvironmentError::ProxyType(kind.clone()));
        }
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (
                    argument.as_str(),
                    arguments.next_if(|a| !a.starts_with('-')).cloned(),
                ),
            };
            match (name, value) {
                ("--domain", Some(value)) => flags.domain = Some(value),
                ("--serviceCluster", Some(value)) => flags.service_cluster = Some(value),
                ("--log_output_level", Some(value)) => flags.log = Some(log_level(&value)),
                ("--concurrency", Some(value)) => {
                    flags.concurrency = Some(value.parse().map_err(|e| invalid(name, &value, e))?);
                }
                // Envoy's own levels: the agent's level counts, there is one process.
                ("--proxyLogLevel" | "--proxyComponentLogLevel", _) => {}
                (name, _) => flags.ignored.push(name.to_owned()),
            }
        }
        Ok(flags)
    }
}

/// Istio's `scope:level,…` as a level: the default scope's counts.
fn log_level(text: &str) -> String {
    let of_default = text.split(',').find_map(|part| match part.split_once(':') {
        Some(("default" | "all", level)) => Some(level),
        Some(_) => None,
        None => Some(part),
    });
    match of_default.unwrap_or("info") {
        level @ ("debug" | "info" | "warn" | "error") => level,
        "fatal" => "error",
        "none" => "off",
        _ => "info",
    }
    .to_owned()
}

fn object(name: &str, text: &str) -> Result<Map<String, Value>, EnvironmentError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(invalid(name, text, "not an object")),
        Err(error) => Err(invalid(name, text, error)),
    }
}

fn metadata(variables: &BTreeMap<String, String>) -> Result<Map<String, Value>, EnvironmentError> {
    let mut map = Map::new();
    for (name, value) in variables {
        if let Some(key) = name.strip_prefix("ISTIO_META_") {
            map.insert(key.to_owned(), value.as_str().into());
        } else if name.starts_with("ISTIO_METAJSON_") {
            map.extend(object(name, value)?);
        }
    }
    Ok(map)
}

fn headers(variables: &BTreeMap<String, String>, prefix: &str) -> Vec<(String, String)> {
    let header = |(name, value): (&String, &String)| {
        Some((name.strip_prefix(prefix)?.to_owned(), value.clone()))
    };
    variables.iter().filter_map(header).collect()
}

fn addresses(text: &str) -> Result<Vec<IpAddr>, EnvironmentError> {
    let parse = |part: &str| {
        part.trim()
            .parse()
            .map_err(|e| invalid("INSTANCE_IP", text, e))
    };
    text.split(',').map(parse).collect()
}

fn port(name: &str, text: Option<&str>, default: u16) -> Result<SocketAddr, EnvironmentError> {
    let port = match text.filter(|v| !v.is_empty()) {
        None => default,
        Some(text) => text.parse().map_err(|e| invalid(name, text, e))?,
    };
    Ok(SocketAddr::from(([0, 0, 0, 0], port)))
}

/// `5s`, `24h0m0s`, `1.5s`: Go's durations of hours, minutes, seconds and milliseconds.
fn seconds(
    name: &str,
    text: Option<&str>,
    default: Duration,
) -> Result<Duration, EnvironmentError> {
    let Some(text) = text.filter(|v| !v.is_empty()) else {
        return Ok(default);
    };
    let bad = || invalid(name, text, "not a duration such as 5s or 24h0m0s");
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let (number, unit) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let (factor, length) = match unit {
            u if u.starts_with("ms") => (0.001, 2),
            u if u.starts_with('h') => (3600.0, 1),
            u if u.starts_with('m') => (60.0, 1),
            u if u.starts_with('s') => (1.0, 1),
            _ => return Err(bad()),
        };
        total += number * factor;
        rest = unit.get(length..).unwrap_or_default();
    }
    Duration::try_from_secs_f64(total).map_err(|_| bad())
}

fn concurrency(
    flag: Option<u16>,
    config: &Map<String, Value>,
    limit: Option<&str>,
) -> Result<Option<u16>, EnvironmentError> {
    let configured = config
        .get("concurrency")
        .and_then(Value::as_u64)
        .and_then(|n| u16::try_from(n).ok());
    let limit = match limit.map(str::trim).filter(|v| !v.is_empty()) {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|e| invalid("ISTIO_CPU_LIMIT", text, e))?,
        ),
    };
    // 0 means all cores, in each of them.
    Ok(flag.or(configured).or(limit).filter(|n| *n > 0))
}

/// A file of the downward API: lines `key="value"`, the value quoted as Go quotes.
fn downward(path: &std::path::Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = |line: &str| {
        let (key, value) = line.split_once('=')?;
        // Go's quoting is JSON's but for a few escapes of control characters.
        let value =
            serde_json::from_str(value).unwrap_or_else(|_| value.trim_matches('"').to_owned());
        Some((key.to_owned(), value))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// As istiod's template renders them.
    const ARGUMENTS: &[&str] = &[
        "waypoint",
        "--domain",
        "default.svc.cluster.local",
        "--serviceCluster",
        "waypoint.default",
        "--proxyLogLevel",
        "warning",
        "--proxyComponentLogLevel",
        "misc:error",
        "--log_output_level",
        "default:info",
        "--stsPort=15463",
    ];

    fn variables() -> BTreeMap<String, String> {
        [
            ("ISTIO_META_SERVICE_ACCOUNT", "waypoint"),
            ("SERVICE_ACCOUNT", "waypoint"),
            ("ISTIO_META_NODE_NAME", "node-1"),
            ("PILOT_CERT_PROVIDER", "istiod"),
            ("CA_ADDR", "istiod.istio-system.svc:15012"),
            ("POD_NAME", "waypoint-5d9c-x"),
            ("POD_NAMESPACE", "default"),
            ("INSTANCE_IP", "10.0.0.7"),
            ("HOST_IP", "10.0.0.1"),
            ("ISTIO_CPU_LIMIT", "2"),
            ("PROXY_CONFIG", "{\"terminationDrainDuration\":\"7s\"}\n"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_MESH_ID", "cluster.local"),
            ("ISTIO_METAJSON_X", "{\"EXTRA\": {\"a\": 1}}"),
            ("TRUST_DOMAIN", "cluster.local"),
            ("XDS_HEADER_X-Team", "blue"),
            ("JWT_POLICY", "third-party-jwt"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
    }

    fn read(
        arguments: &[&str],
        variables: &BTreeMap<String, String>,
    ) -> Result<Environment, EnvironmentError> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        Environment::read(&Sources {
            arguments: &arguments,
            variables,
            root: std::env::temp_dir().join("waypoint-no-such-root"),
        })
    }

    #[test]
    fn what_the_template_renders_is_understood() {
        let environment = read(ARGUMENTS, &variables()).unwrap();
        assert_eq!(environment.domain, "default.svc.cluster.local");
        assert_eq!(
            environment.identity.as_str(),
            "spiffe://cluster.local/ns/default/sa/waypoint"
        );
        assert_eq!(environment.discovery.address, DISCOVERY_ADDRESS);
        assert_eq!(
            environment.discovery.headers,
            [("X-Team".to_owned(), "blue".to_owned())]
        );
        assert_eq!(environment.concurrency, Some(2));
        assert_eq!(environment.drain, Duration::from_secs(7));
        assert_eq!(environment.metadata["EXTRA"]["a"], 1);
        assert_eq!(environment.trust_grace, Duration::from_secs(3600));
        assert!(
            environment
                .crl
                .ends_with("var/run/secrets/istio/crl/ca-crl.pem")
        );
        assert_eq!(environment.log, "info");
        assert_eq!(environment.ignored, ["--stsPort", "JWT_POLICY"]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (name, value, part) in [
            ("POD_NAME", "", "POD_NAME"),
            ("INSTANCE_IP", "here", "INSTANCE_IP"),
            ("PROXY_CONFIG", "[", "PROXY_CONFIG"),
            ("ISTIO_CPU_LIMIT", "many", "ISTIO_CPU_LIMIT"),
            ("SECRET_TTL", "soon", "SECRET_TTL"),
            ("WAYPOINT_TRUST_GRACE", "1 hour", "WAYPOINT_TRUST_GRACE"),
        ] {
            let mut variables = variables();
            variables.insert(name.into(), value.into());
            let error = read(ARGUMENTS, &variables).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = read(&["sidecar"], &variables()).unwrap_err().to_string();
        assert!(error.contains("sidecar"), "{error}");
    }

    #[test]
    fn durations_and_levels() {
        let second = |text| {
            seconds("x", Some(text), Duration::ZERO)
                .unwrap()
                .as_millis()
        };
        assert_eq!(second("24h0m0s"), 86_400_000);
        assert_eq!(second("1.5s"), 1500);
        assert_eq!(second("250ms"), 250);
        assert_eq!(log_level("ads:debug,default:warn"), "warn");
        assert_eq!(log_level("debug"), "debug");
        assert_eq!(log_level("all:none"), "off");
    }

    #[test]
    fn downward_files_are_quoted_lines() {
        let path = std::env::temp_dir().join(format!("waypoint-labels-{}", std::process::id()));
        std::fs::write(&path, "app=\"waypoint\"\nodd=\"a\\\"b=c\"\n").unwrap();
        let labels = downward(&path);
        assert_eq!(labels["app"], "waypoint");
        assert_eq!(labels["odd"], "a\"b=c");
        std::fs::remove_file(path).unwrap();
    }
}
