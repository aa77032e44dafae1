//! Starting as the pod's container, and the small commands that people and tools exec in it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::pod::environment::{Environment, EnvironmentError, Sources};
use crate::pod::node::node;
use crate::run::{AccessLogTarget, CertificateSource, ConfigSource, CrlFile, RunOptions};

/// Stands for `/` in front of the pod's files; for tests and for trying it outside a pod.
pub(crate) const ROOT_VARIABLE: &str = "WAYPOINT_ROOT";

/// Reads what the container was started with.
pub(crate) fn environment(arguments: &[String]) -> Result<Environment, EnvironmentError> {
    let variables: BTreeMap<String, String> = std::env::vars().collect();
    let root = variables
        .get(ROOT_VARIABLE)
        .map_or_else(|| PathBuf::from("/"), PathBuf::from);
    Environment::read(&Sources {
        arguments,
        variables: &variables,
        root,
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
        drain: environment.drain,
        access_log: AccessLogTarget::AsConfigured,
        ..RunOptions::new(source, certificates)
    }
}

/// `request METHOD PATH [--debug-port N]`: asks the admin port, as `pilot-agent request` does.
pub(crate) fn request(
    arguments: &[String],
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    use std::io::{Read, Write};
    const ALLOWED: [u16; 4] = [15000, 15021, 15020, 15004];
    let mut port = 15000;
    let mut words = Vec::new();
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        match word.strip_prefix("--debug-port") {
            Some(value) => {
                let value = value
                    .strip_prefix('=')
                    .or_else(|| rest.next().map(String::as_str));
                port = value.ok_or("--debug-port needs a port")?.parse()?;
            }
            None => words.push(word.as_str()),
        }
    }
    let [method, path, body @ ..] = words.as_slice() else {
        return Err("usage: request METHOD PATH [BODY] [--debug-port PORT]".into());
    };
    if !ALLOWED.contains(&port) {
        return Err(format!("port {port} is not one of {ALLOWED:?}").into());
    }
    let body = body.first().copied().unwrap_or_default();
    let mut tcp = std::net::TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    write!(
        tcp,
        "{method} {slash}{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.split(' ').nth(1).unwrap_or("none");
    if status.starts_with('2') {
        Ok(body.to_owned())
    } else {
        Err(format!("{method} {path}: {status} {}", body.trim()).into())
    }
}
