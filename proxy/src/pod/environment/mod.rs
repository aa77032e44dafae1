//! All that the container was started with, parsed: arguments, variables and files of the pod.
//!
//! Each setting of Istio's agent is honoured or named as having no effect; one that can't be understood keeps the pod from
//! starting, for its author is near.

mod addresses;
pub(crate) mod arguments;
mod downward;
mod go_duration;
mod istiod;
mod ports;
mod proxy_config;
pub(crate) mod variables;
mod without_effect;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use serde_json::{Map, Value};
use waypoint_config::sources::xds::channel::ControlPlane;
use waypoint_filters::metrics::Limits as MetricLimits;
use waypoint_hbone::identity::Identity;

use crate::identity::workload_ca::RenewalPoint;
use crate::pod::environment::arguments::{Arguments, LogSettings};
use crate::pod::environment::istiod::Istiod;
use crate::pod::environment::ports::Ports;
use crate::pod::environment::proxy_config::ProxyConfig;
use crate::pod::environment::variables::{EnvironmentError, Variables, invalid};
use crate::run::{DrainTimes, Limits, OnRefused, parse_bytes};

/// The newest Istio that this is tested with, reported unless `ISTIO_META_ISTIO_VERSION` says otherwise.
pub(crate) const ISTIO_VERSION: &str = "1.31.0";
const CRL: &str = "var/run/secrets/istio/crl/ca-crl.pem";
const LABELS: &str = "etc/istio/pod/labels";
const ANNOTATIONS: &str = "etc/istio/pod/annotations";

/// How many HBONE connections there may be for each byte of `GOMEMLIMIT`; see "Limits" in docs/install.md.
const MEMORY_PER_CONNECTION: u64 = 64 * 1024;
const LEAST_CONNECTIONS: usize = 1024;

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
    pub(crate) proxy_config: ProxyConfig,
    pub(crate) discovery: ControlPlane,
    pub(crate) ca: ControlPlane,
    pub(crate) certificate_ttl: Duration,
    /// Where CRLs are mounted, if they are.
    pub(crate) crl: PathBuf,
    pub(crate) trust_grace: Duration,
    pub(crate) renewal: RenewalPoint,
    /// `None`: one thread per core.
    pub(crate) concurrency: Option<u16>,
    pub(crate) drain: DrainTimes,
    pub(crate) limits: Limits,
    pub(crate) metrics: MetricLimits,
    pub(crate) dns_servers: Vec<SocketAddr>,
    pub(crate) near_allowed: Vec<IpNet>,
    pub(crate) on_refused: OnRefused,
    pub(crate) denial_header: Option<HeaderName>,
    pub(crate) outlier_log_path: Option<String>,
    pub(crate) log: LogSettings,
    pub(crate) ports: Ports,
    /// Given, understood, and without effect.
    pub(crate) ignored: Vec<String>,
}

/// What the pod is made of: words, variables by name, and the folder that stands for `/`.
pub(crate) struct Sources<'a> {
    pub(crate) arguments: &'a [String],
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) root: &'a Path,
}

impl Environment {
    /// Reads it all; files that aren't there are empty.
    ///
    /// # Errors
    /// Something that is needed is missing, or can't be understood.
    pub(crate) fn read(sources: Sources<'_>) -> Result<Environment, EnvironmentError> {
        let root = sources.root;
        let arguments = Arguments::parse(sources.arguments)?;
        let labels = downward::read(&root.join(LABELS));
        let annotations = downward::read(&root.join(ANNOTATIONS));
        let mut variables = Variables::new(sources.variables);
        let proxy_config = ProxyConfig::read(&variables, &annotations)?;
        variables.add_missing(proxy_config.metadata());

        let namespace = variables.needed("POD_NAMESPACE")?.to_owned();
        let service_account = variables.needed("SERVICE_ACCOUNT")?.to_owned();
        let trust_domain = variables.text("TRUST_DOMAIN").unwrap_or("cluster.local");
        let metadata = metadata(&variables)?;
        let cluster_id = text(&metadata, "CLUSTER_ID").unwrap_or("Kubernetes");
        let istiod = Istiod::read(&variables, &proxy_config, cluster_id, root)?;
        let mut ignored = arguments.ignored;
        ignored.extend(without_effect::given(&variables, &annotations));
        ignored.extend(proxy_config.ignored.iter().cloned());
        Ok(Environment {
            pod_name: variables.needed("POD_NAME")?.to_owned(),
            domain: arguments
                .domain
                .unwrap_or_else(|| format!("{namespace}.svc.cluster.local")),
            service_cluster: arguments
                .service_cluster
                .unwrap_or_else(|| format!("{service_account}.{namespace}")),
            addresses: addresses::read(&variables, root)?,
            identity: Identity::istio(trust_domain, &namespace, &service_account)?,
            istio_version: text(&metadata, "ISTIO_VERSION")
                .unwrap_or(ISTIO_VERSION)
                .to_owned(),
            discovery: istiod.discovery,
            ca: istiod.ca,
            certificate_ttl: variables.duration("SECRET_TTL", Duration::from_secs(24 * 3600))?,
            renewal: renewal(&variables)?,
            crl: root.join(CRL),
            trust_grace: variables.duration("WAYPOINT_TRUST_GRACE", Duration::from_secs(3600))?,
            concurrency: concurrency(arguments.concurrency, &proxy_config, &variables)?,
            drain: drain(&variables, &proxy_config)?,
            limits: limits(&variables)?,
            metrics: metric_limits(&variables)?,
            dns_servers: list(&variables, "WAYPOINT_DNS_SERVERS")?,
            near_allowed: list(&variables, "WAYPOINT_DYNAMIC_DNS_ALLOW")?,
            on_refused: on_refused(&variables)?,
            denial_header: variables.parsed("WAYPOINT_DENIAL_HEADER")?,
            outlier_log_path: arguments.outlier_log_path,
            log: arguments.log,
            ports: Ports::read(&variables, &proxy_config)?,
            namespace,
            labels,
            annotations,
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

fn text<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let text = map.get(name).and_then(Value::as_str);
    text.filter(|text| !text.is_empty())
}

fn metadata(variables: &Variables) -> Result<Map<String, Value>, EnvironmentError> {
    let mut map = Map::new();
    for (key, value) in variables.with_prefix("ISTIO_META_") {
        map.insert(key.to_owned(), value.into());
    }
    for (key, value) in variables.with_prefix("ISTIO_METAJSON_") {
        let name = format!("ISTIO_METAJSON_{key}");
        match serde_json::from_str(value) {
            Ok(Value::Object(more)) => map.extend(more),
            Ok(_) => return Err(invalid(&name, value, "not an object")),
            Err(error) => return Err(invalid(&name, value, error)),
        }
    }
    Ok(map)
}

fn concurrency(
    argument: Option<u16>,
    config: &ProxyConfig,
    variables: &Variables,
) -> Result<Option<u16>, EnvironmentError> {
    let limit = variables.parsed("ISTIO_CPU_LIMIT")?;
    // 0 means all cores, in each of them.
    let chosen = argument.or(config.concurrency()?).or(limit);
    Ok(chosen.filter(|threads| *threads > 0))
}

fn drain(variables: &Variables, config: &ProxyConfig) -> Result<DrainTimes, EnvironmentError> {
    let least = variables.duration("MINIMUM_DRAIN_DURATION", Duration::from_secs(5))?;
    let until_unused = variables.flag("EXIT_ON_ZERO_ACTIVE_CONNECTIONS")?;
    Ok(DrainTimes {
        open: if until_unused {
            least
        } else {
            config.duration("terminationDrainDuration")?
        },
        until_unused,
        finish: Duration::ZERO,
    })
}

fn limits(variables: &Variables) -> Result<Limits, EnvironmentError> {
    let default = Limits::default();
    const NAME: &str = "WAYPOINT_MEMORY_LIMIT";
    let given = variables.text(NAME);
    let given = given.map(|text| parse_bytes(text).map_err(|error| invalid(NAME, text, error)));
    // Only a hint: `off`, and what Go takes and isn't understood here, say nothing.
    let hint = variables
        .text("GOMEMLIMIT")
        .and_then(|text| parse_bytes(text).ok());
    let memory = given.transpose()?.or(hint);
    let fitting = memory.map(|bytes| {
        let connections = usize::try_from(bytes / MEMORY_PER_CONNECTION).unwrap_or(usize::MAX);
        connections.max(LEAST_CONNECTIONS)
    });
    let given = variables.parsed("ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS")?;
    let at_least_one = |name, default: usize| {
        let given = variables.parsed::<std::num::NonZeroUsize>(name)?;
        Ok::<_, EnvironmentError>(given.map_or(default, Into::into))
    };
    Ok(Limits {
        connections: given.or(fitting).unwrap_or(default.connections),
        handshakes: at_least_one("WAYPOINT_MAX_HANDSHAKES", default.handshakes)?,
        handshakes_per_source: at_least_one(
            "WAYPOINT_MAX_HANDSHAKES_PER_SOURCE",
            default.handshakes_per_source,
        )?,
        streams: variables
            .parsed::<std::num::NonZeroU32>("WAYPOINT_MAX_CONCURRENT_STREAMS")?
            .map(Into::into),
        memory,
        frames: variables
            .parsed::<std::num::NonZeroU32>("WAYPOINT_FRAME_BUDGET")?
            .map_or(default.frames, Into::into),
    })
}

fn metric_limits(variables: &Variables) -> Result<MetricLimits, EnvironmentError> {
    let default = MetricLimits::DEFAULT;
    let series = variables.parsed::<std::num::NonZeroUsize>("WAYPOINT_MAX_METRIC_SERIES")?;
    let idle = variables.duration("WAYPOINT_METRIC_IDLE", default.idle)?;
    Ok(MetricLimits {
        max_series: series.map_or(default.max_series, Into::into),
        idle: idle.max(Duration::from_secs(1)),
    })
}

fn renewal(variables: &Variables) -> Result<RenewalPoint, EnvironmentError> {
    let default = RenewalPoint::default();
    let fraction = |name, default: f64| match variables.parsed::<f64>(name)? {
        None => Ok(default),
        Some(fraction) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        Some(fraction) => Err(invalid(name, &fraction.to_string(), "not between 0 and 1")),
    };
    Ok(RenewalPoint {
        ratio: fraction("SECRET_GRACE_PERIOD_RATIO", default.ratio)?,
        jitter: fraction("SECRET_GRACE_PERIOD_RATIO_JITTER", default.jitter)?,
    })
}

/// Values that are parted by commas.
fn list<T>(variables: &Variables, name: &'static str) -> Result<Vec<T>, EnvironmentError>
where
    T: FromStr<Err: fmt::Display>,
{
    let text = variables.text(name).unwrap_or_default();
    let values = text.split(',').map(str::trim).filter(|s| !s.is_empty());
    values
        .map(|value| value.parse().map_err(|error| invalid(name, value, error)))
        .collect()
}

fn on_refused(variables: &Variables) -> Result<OnRefused, EnvironmentError> {
    const NAME: &str = "WAYPOINT_ON_REFUSED";
    match variables.text(NAME) {
        None | Some("keep") => Ok(OnRefused::Keep),
        Some("close") => Ok(OnRefused::Close),
        Some(text) => Err(invalid(NAME, text, "neither keep nor close")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
            ("GOMEMLIMIT", "1073741824"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_MESH_ID", "cluster.local"),
            ("ISTIO_METAJSON_X", "{\"EXTRA\": {\"a\": 1}}"),
            ("TRUST_DOMAIN", "cluster.local"),
            ("XDS_HEADER_X-Team", "blue"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
    }

    fn read_from(root: &Path, more: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        let mut variables = variables();
        variables.extend(more.iter().map(|(k, v)| ((*k).into(), (*v).into())));
        Environment::read(Sources {
            arguments: &["waypoint".to_owned()],
            variables,
            root,
        })
    }

    fn read(more: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        read_from(&std::env::temp_dir().join("waypoint-no-such-root"), more)
    }

    #[test]
    fn what_the_template_renders_is_understood() {
        let environment = read(&[]).unwrap();
        assert_eq!(environment.domain, "default.svc.cluster.local");
        assert_eq!(environment.service_cluster, "waypoint.default");
        assert_eq!(
            environment.identity.as_str(),
            "spiffe://cluster.local/ns/default/sa/waypoint"
        );
        assert_eq!(
            environment.discovery.address,
            "istiod.istio-system.svc:15012"
        );
        assert_eq!(
            environment.discovery.headers,
            [("X-Team".to_owned(), "blue".to_owned())]
        );
        assert_eq!(environment.concurrency, Some(2));
        let seven_seconds = DrainTimes {
            open: Duration::from_secs(7),
            until_unused: false,
            finish: Duration::ZERO,
        };
        assert_eq!(environment.drain, seven_seconds);
        assert_eq!(environment.metadata["EXTRA"]["a"], 1);
        assert_eq!(environment.limits.connections, 16 * 1024);
        assert_eq!(environment.limits.streams, None);
        assert_eq!(environment.limits.memory, Some(1 << 30));
        assert_eq!(environment.on_refused, OnRefused::Keep);
        assert_eq!(environment.renewal, RenewalPoint::default());
        assert_eq!(environment.trust_grace, Duration::from_secs(3600));
        assert!(environment.crl.ends_with(CRL));
        assert_eq!(environment.ignored, ["HOST_IP", "PILOT_CERT_PROVIDER"]);
    }

    #[test]
    fn settings_have_their_effect() {
        let environment = read(&[
            ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true"),
            ("MINIMUM_DRAIN_DURATION", "9s"),
            ("ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS", "50"),
            ("WAYPOINT_MAX_CONCURRENT_STREAMS", "1000"),
            ("WAYPOINT_MAX_HANDSHAKES", "300"),
            ("WAYPOINT_MAX_HANDSHAKES_PER_SOURCE", "200"),
            ("WAYPOINT_FRAME_BUDGET", "5000"),
            ("WAYPOINT_MAX_METRIC_SERIES", "900"),
            ("WAYPOINT_METRIC_IDLE", "10m"),
            ("WAYPOINT_DENIAL_HEADER", "X-Denied-By"),
            ("WAYPOINT_MEMORY_LIMIT", "256Mi"),
            ("WAYPOINT_DNS_SERVERS", "10.0.0.9:53, [fd00::9]:5353"),
            ("WAYPOINT_ON_REFUSED", "close"),
            ("GRPC_KEEPALIVE_INTERVAL", "7s"),
            ("SECRET_GRACE_PERIOD_RATIO", "0.3"),
            ("XDS_ROOT_CA", "/roots.pem"),
            ("CA_ADDR", "ca.example:15010"),
            ("ISTIOD_SAN", "istiod.example"),
        ])
        .unwrap();
        let drain = DrainTimes {
            open: Duration::from_secs(9),
            until_unused: true,
            finish: Duration::ZERO,
        };
        assert_eq!(environment.drain, drain);
        let limits = Limits {
            connections: 50,
            handshakes: 300,
            handshakes_per_source: 200,
            streams: Some(1000),
            memory: Some(256 << 20),
            frames: 5000,
        };
        assert_eq!(environment.limits, limits);
        let metrics = MetricLimits {
            max_series: 900,
            idle: Duration::from_secs(600),
        };
        assert_eq!(environment.metrics, metrics);
        let servers: Vec<String> = environment
            .dns_servers
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(servers, ["10.0.0.9:53", "[fd00::9]:5353"]);
        assert_eq!(environment.on_refused, OnRefused::Close);
        assert_eq!(environment.denial_header.unwrap(), "x-denied-by");
        let discovery = &environment.discovery;
        assert_eq!(discovery.keepalive.interval, Duration::from_secs(7));
        assert_eq!(discovery.keepalive.timeout, Duration::from_secs(10));
        assert_eq!(discovery.root.as_deref(), Some(Path::new("/roots.pem")));
        assert_eq!(discovery.server_name.as_deref(), Some("istiod.example"));
        assert_eq!(environment.ca.root, None, "plaintext");
        assert_eq!(environment.renewal.ratio, 0.3);
    }

    #[test]
    fn the_gateways_annotations_reach_the_pod() {
        let root = std::env::temp_dir().join(format!("waypoint-pod-{}", std::process::id()));
        std::fs::create_dir_all(root.join("etc/istio/pod")).unwrap();
        let annotations = "proxy.istio.io/config=\"proxyMetadata:\\n  MINIMUM_DRAIN_DURATION: 8s\\n  \
            EXIT_ON_ZERO_ACTIVE_CONNECTIONS: 'true'\\n  ISTIO_META_TEAM: blue\\n\"\n\
            sidecar.istio.io/discoveryAddress=\"other:15012\"\n\
            sidecar.istio.io/statsInclusionPrefixes=\"x\"\n";
        std::fs::write(root.join(ANNOTATIONS), annotations).unwrap();
        std::fs::write(root.join(LABELS), "app=\"waypoint\"\n").unwrap();
        let environment = read_from(&root, &[]).unwrap();
        assert!(environment.drain.until_unused);
        assert_eq!(environment.drain.open, Duration::from_secs(8));
        assert_eq!(environment.metadata["TEAM"], "blue");
        assert_eq!(environment.discovery.address, "other:15012");
        assert_eq!(environment.labels["app"], "waypoint");
        assert!(
            environment
                .ignored
                .contains(&"sidecar.istio.io/statsInclusionPrefixes".to_owned())
        );
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (name, value) in [
            ("POD_NAME", ""),
            ("SERVICE_ACCOUNT", ""),
            ("INSTANCE_IP", ""),
            ("INSTANCE_IP", "here"),
            ("PROXY_CONFIG", "["),
            ("ISTIO_CPU_LIMIT", "many"),
            ("SECRET_TTL", "soon"),
            ("SECRET_GRACE_PERIOD_RATIO", "2"),
            ("MINIMUM_DRAIN_DURATION", "5"),
            ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "perhaps"),
            ("GRPC_KEEPALIVE_TIMEOUT", "x"),
            ("XDS_ROOT_CA", "SYSTEM"),
            ("ISTIO_METAJSON_X", "[]"),
            ("ISTIO_META_GLOBAL_DOWNSTREAM_MAX_CONNECTIONS", "-1"),
            ("WAYPOINT_MAX_CONCURRENT_STREAMS", "0"),
            ("WAYPOINT_DENIAL_HEADER", "denied by"),
            ("WAYPOINT_ON_REFUSED", "maybe"),
            ("WAYPOINT_DNS_SERVERS", "10.0.0.9"),
            ("WAYPOINT_TRUST_GRACE", "1 hour"),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn without_a_memory_limit_there_is_a_limit_all_the_same() {
        let connections = |memory| read(&[("GOMEMLIMIT", memory)]).unwrap().limits.connections;
        assert_eq!(connections(""), Limits::default().connections);
        assert_eq!(connections("off"), Limits::default().connections);
        assert_eq!(connections("134217728"), 2048);
        assert_eq!(connections("1048576"), LEAST_CONNECTIONS);
    }
}
