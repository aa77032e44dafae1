//! Starting as the pod's container.

use std::path::PathBuf;

use crate::pod::environment::variables::EnvironmentError;
use crate::pod::environment::{Environment, Sources};
use crate::pod::node::node;
use crate::run::{AccessLogTarget, CertificateSource, ConfigSource, CrlFile, RunOptions};

/// Stands for `/` in front of the pod's files; for tests and for trying it outside a pod.
const ROOT_VARIABLE: &str = "WAYPOINT_ROOT";

/// Reads what the container was started with.
pub(crate) fn environment(arguments: &[String]) -> Result<Environment, EnvironmentError> {
    let root = std::env::var_os(ROOT_VARIABLE).map_or_else(|| PathBuf::from("/"), PathBuf::from);
    // A variable that isn't text is none of the template's.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Environment::read(Sources {
        arguments,
        variables: variables.collect(),
        root: &root,
    })
}

/// What runs in the pod.
pub(crate) fn options(environment: &Environment) -> RunOptions {
    let source = ConfigSource::Istiod {
        plane: environment.discovery.clone(),
        node: Box::new(node(environment)),
    };
    let certificates = CertificateSource::Ca {
        plane: environment.ca.clone(),
        identity: environment.identity.clone(),
        ttl: environment.certificate_ttl,
    };
    RunOptions {
        hbone_addr: environment.ports.hbone,
        admin_addr: environment.ports.admin,
        readiness_addr: environment.ports.readiness,
        stats_addr: environment.ports.stats,
        envoy_stats_addr: Some(environment.ports.prometheus),
        crl: Some(CrlFile {
            path: environment.crl.clone(),
            optional: true,
        }),
        trust_grace: environment.trust_grace,
        renewal: environment.renewal,
        drain: environment.drain,
        limits: environment.limits,
        metrics: environment.metrics,
        dns_servers: environment.dns_servers.clone(),
        near_allowed: environment.near_allowed.clone(),
        on_refused: environment.on_refused,
        denial_header: environment.denial_header.clone(),
        access_log: AccessLogTarget::AsConfigured,
        ..RunOptions::new(source, certificates)
    }
}
