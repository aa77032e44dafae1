//! Log levels while the process runs, by Envoy's names for the parts of a proxy.
//!
//! `istioctl proxy-config log` sends those names. Each stands for targets of this program; names of parts
//! that it doesn't have are taken and have no effect.

use std::sync::Arc;

use parking_lot::Mutex;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// Envoy's loggers, and what they are here. The first target tells the level.
const LOGGERS: &[(&str, &[&str])] = &[
    ("a2a", &[]),
    ("admin", &["waypoint_proxy::admin"]),
    ("ai_protocol_manager", &[]),
    ("alternate_protocols_cache", &[]),
    ("assert", &[]),
    ("aws", &[]),
    ("backtrace", &[]),
    ("basic_auth", &[]),
    ("cache_filter", &[]),
    ("client", &["waypoint_hbone::client"]),
    ("compression", &[]),
    (
        "config",
        &["waypoint_config", "waypoint_proxy::configuration"],
    ),
    (
        "conn_handler",
        &[
            "waypoint_proxy::downstream::hbone_port",
            "waypoint_proxy::downstream::newcomers",
        ],
    ),
    (
        "connection",
        &[
            "waypoint_proxy::downstream::tunnel",
            "waypoint_proxy::downstream::hbone_port",
            "waypoint_proxy::downstream",
            "waypoint_hbone::server",
        ],
    ),
    ("credential_injector", &[]),
    ("decompression", &[]),
    ("dns", &["waypoint_proxy::configuration::dns"]),
    ("dubbo", &[]),
    ("dynamic_modules", &[]),
    ("envoy_bug", &[]),
    (
        "ext_authz",
        &[
            "waypoint_filters::http::ext_authz",
            "waypoint_filters::network::ext_authz",
            "waypoint_filters::security::ext_authz",
        ],
    ),
    ("ext_proc", &[]),
    ("file", &["waypoint_proxy::logs::access_file"]),
    (
        "filter",
        &["waypoint_filters", "waypoint_proxy::downstream::tcp"],
    ),
    ("forward_proxy", &[]),
    ("geolocation", &[]),
    ("golang", &[]),
    ("grpc", &["tonic", "waypoint_config::sources::xds"]),
    ("happy_eyeballs", &[]),
    ("hc", &[]),
    ("health_checker", &[]),
    (
        "http",
        &[
            "waypoint_proxy::downstream::http::exchange",
            "waypoint_proxy::downstream::http::serving",
            "hyper",
        ],
    ),
    ("http2", &["h2"]),
    ("hystrix", &[]),
    ("init", &["waypoint_proxy::lifecycle::readiness"]),
    ("io", &["waypoint_proxy::process::listen"]),
    ("ip_tagging", &[]),
    ("json_rpc", &[]),
    ("jwt", &["waypoint_filters::security::jwt"]),
    ("kafka", &[]),
    ("key_value_store", &[]),
    ("local_rate_limit", &[]),
    ("lua", &[]),
    (
        "main",
        &[
            "waypoint_proxy::run",
            "waypoint_proxy::cli",
            "waypoint_proxy::run::control",
            "waypoint_proxy::lifecycle::drain",
            "waypoint_proxy::lifecycle",
            "waypoint_proxy::process",
            "waypoint_proxy::pod",
        ],
    ),
    ("matcher", &["waypoint_filters::matcher"]),
    ("mcp", &[]),
    ("misc", &["waypoint_proxy::run::host"]),
    ("mongo", &[]),
    ("multi_connection", &[]),
    ("notification", &[]),
    ("oauth2", &[]),
    (
        "pool",
        &["waypoint_hbone::pool", "waypoint_proxy::upstream::pools"],
    ),
    ("quic", &[]),
    ("quic_stream", &[]),
    ("rate_limit_quota", &[]),
    (
        "rbac",
        &[
            "waypoint_filters::security::rbac",
            "waypoint_filters::http::rbac",
            "waypoint_filters::network::rbac",
        ],
    ),
    ("rds", &["waypoint_config::model::route"]),
    ("redis", &[]),
    ("rocketmq", &[]),
    ("router", &["waypoint_proxy::router"]),
    ("runtime", &[]),
    (
        "secret",
        &[
            "waypoint_proxy::identity::certificates",
            "waypoint_proxy::identity::workload_ca",
            "waypoint_hbone::tls",
        ],
    ),
    ("sse", &[]),
    ("stats", &["waypoint_filters::metrics"]),
    ("stats_sinks", &[]),
    ("tap", &[]),
    ("testing", &[]),
    ("thrift", &[]),
    (
        "tracing",
        &[
            "waypoint_filters::telemetry::trace",
            "waypoint_filters::record::spans",
        ],
    ),
    ("udp", &[]),
    ("upstream", &["waypoint_proxy::upstream"]),
    ("wasm", &[]),
    // Whole crates.
    ("waypoint_config", &["waypoint_config"]),
    ("waypoint_filters", &["waypoint_filters"]),
    ("waypoint_hbone", &["waypoint_hbone"]),
    ("waypoint_proxy", &["waypoint_proxy"]),
    // Envoy's again.
    ("websocket", &["waypoint_proxy::downstream::http::upgrade"]),
];

/// Envoy's levels. `critical` is asked for only: nothing here is worse than an error.
const LEVELS: &[(&str, LevelFilter)] = &[
    ("trace", LevelFilter::TRACE),
    ("debug", LevelFilter::DEBUG),
    ("info", LevelFilter::INFO),
    ("warning", LevelFilter::WARN),
    ("warn", LevelFilter::WARN),
    ("error", LevelFilter::ERROR),
    ("critical", LevelFilter::ERROR),
    ("off", LevelFilter::OFF),
];

/// What was asked for can't be set. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LogLevelError {
    #[error("unknown logger name: {0}")]
    Logger(String),
    #[error("unknown logger level: {0}")]
    Level(String),
    #[error("{0}: not NAME:LEVEL")]
    Pair(String),
    #[error("the log's filter can't be changed: {0}")]
    Fixed(String),
}

type Apply = dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync;

/// The levels in use; clones share them.
#[derive(Clone)]
pub struct LogLevels {
    targets: Arc<Mutex<Targets>>,
    apply: Arc<Apply>,
}

impl std::fmt::Debug for LogLevels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogLevels")
            .field(&*self.targets.lock())
            .finish()
    }
}

impl LogLevels {
    /// `filter` is what is in use; `apply` puts another in its place.
    pub fn new(
        filter: &EnvFilter,
        apply: impl Fn(EnvFilter) -> Result<(), String> + Send + Sync + 'static,
    ) -> LogLevels {
        // A filter by spans has no level per target.
        let targets = filter.to_string().parse();
        let fallback = || Targets::new().with_default(LevelFilter::INFO);
        LogLevels {
            targets: Arc::new(Mutex::new(targets.unwrap_or_else(|_| fallback()))),
            apply: Arc::new(apply),
        }
    }

    /// Levels of a log that belongs to somebody else.
    pub(crate) fn fixed() -> LogLevels {
        LogLevels::new(&EnvFilter::default(), |_| Err("it isn't ours".into()))
    }

    /// All loggers with their levels, by name.
    pub(crate) fn list(&self) -> Vec<(&'static str, &'static str)> {
        let targets = self.targets.lock();
        let level = |&(name, of): &(&'static str, &[&str])| {
            let target = of
                .first()
                .map_or_else(|| without_effect(name), |t| (*t).to_owned());
            (name, level_of(&targets, &target))
        };
        LOGGERS.iter().map(level).collect()
    }

    /// The level of whatever isn't named.
    pub(crate) fn default_level(&self) -> &'static str {
        level_of(&self.targets.lock(), "")
    }

    /// Sets the level of all loggers.
    pub(crate) fn set_all(&self, level: &str) -> Result<(), LogLevelError> {
        self.change(Targets::new().with_default(parse(level)?))
    }

    /// Sets the levels of some, or of none of them.
    pub(crate) fn set(&self, pairs: &[(&str, &str)]) -> Result<(), LogLevelError> {
        let mut targets = self.targets.lock().clone();
        for (name, level) in pairs {
            let level = parse(level)?;
            let unknown = || LogLevelError::Logger((*name).to_owned());
            let (_, of) = LOGGERS
                .iter()
                .find(|(n, _)| n == name)
                .ok_or_else(unknown)?;
            if of.is_empty() {
                targets = targets.with_target(without_effect(name), level);
            }
            for target in *of {
                targets = targets.with_target(*target, level);
            }
        }
        self.change(targets)
    }

    fn change(&self, targets: Targets) -> Result<(), LogLevelError> {
        (self.apply)(EnvFilter::new(targets.to_string())).map_err(LogLevelError::Fixed)?;
        tracing::info!(%targets, "log levels changed");
        *self.targets.lock() = targets;
        Ok(())
    }
}

/// A target that nothing logs to.
fn without_effect(name: &str) -> String {
    format!("envoy::{name}")
}

fn parse(level: &str) -> Result<LevelFilter, LogLevelError> {
    let found = LEVELS.iter().find(|(name, _)| *name == level);
    let found = found.map(|(_, level)| *level);
    found.ok_or_else(|| LogLevelError::Level(level.to_owned()))
}

fn level_of(targets: &Targets, target: &str) -> &'static str {
    [
        (Level::TRACE, "trace"),
        (Level::DEBUG, "debug"),
        (Level::INFO, "info"),
        (Level::WARN, "warning"),
        (Level::ERROR, "error"),
    ]
    .into_iter()
    .find(|(level, _)| targets.would_enable(target, level))
    .map_or("off", |(_, name)| name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn levels(filter: &str) -> (LogLevels, Arc<Mutex<String>>) {
        let applied = Arc::new(Mutex::new(String::new()));
        let seen = applied.clone();
        let levels = LogLevels::new(&EnvFilter::new(filter), move |filter| {
            *seen.lock() = filter.to_string();
            Ok(())
        });
        (levels, applied)
    }

    fn level(levels: &LogLevels, name: &str) -> &'static str {
        let list = levels.list();
        list.iter().find(|(n, _)| *n == name).unwrap().1
    }

    #[test]
    fn loggers_start_as_the_filter_says() {
        let (levels, _) = levels("warn,waypoint_hbone=debug,h2=off");
        assert_eq!(level(&levels, "admin"), "warning");
        assert_eq!(level(&levels, "pool"), "debug");
        assert_eq!(level(&levels, "http2"), "off");
        assert_eq!(levels.default_level(), "warning");
        let names: Vec<_> = levels.list().iter().map(|(name, _)| *name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names, sorted);
    }

    #[test]
    fn one_logger_changes_and_the_others_stay() {
        let (levels, applied) = levels("info");
        levels.set(&[("rbac", "debug"), ("udp", "trace")]).unwrap();
        assert_eq!(level(&levels, "rbac"), "debug");
        assert_eq!(level(&levels, "udp"), "trace");
        assert_eq!(level(&levels, "router"), "info");
        assert!(
            applied
                .lock()
                .contains("waypoint_filters::security::rbac=debug"),
            "{}",
            applied.lock()
        );
        // What was set for one gives way to what is set for all.
        levels.set_all("critical").unwrap();
        assert_eq!(level(&levels, "rbac"), "error");
        assert_eq!(*applied.lock(), "error");
    }

    #[test]
    fn what_is_unknown_changes_nothing() {
        let (levels, applied) = levels("info");
        let error = levels.set(&[("rbac", "debug"), ("no", "debug")]);
        assert_eq!(error, Err(LogLevelError::Logger("no".into())));
        let error = levels.set(&[("rbac", "loud")]);
        assert_eq!(error, Err(LogLevelError::Level("loud".into())));
        assert_eq!(
            (level(&levels, "rbac"), applied.lock().as_str()),
            ("info", "")
        );
        assert!(LogLevels::fixed().set_all("debug").is_err());
    }
}
