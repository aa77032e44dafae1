//! Where the pod listens: Istio's ports, on IPv4 and IPv6.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use crate::pod::environment::proxy_config::ProxyConfig;
use crate::pod::environment::variables::{EnvironmentError, Variables};

/// Addresses to listen on. `WAYPOINT_*_ADDR` replace them, for several waypoints on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) hbone: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) readiness: SocketAddr,
    pub(crate) stats: SocketAddr,
    pub(crate) prometheus: SocketAddr,
}

impl Ports {
    pub(crate) fn read(
        variables: &Variables,
        config: &ProxyConfig,
    ) -> Result<Ports, EnvironmentError> {
        let given = |name: &str, default: SocketAddr| {
            Ok::<_, EnvironmentError>(variables.parsed(name)?.unwrap_or(default))
        };
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let metrics = |port| {
            Ok::<_, EnvironmentError>(if variables.flag("METRICS_LOCALHOST_ACCESS_ONLY")? {
                loopback(port)
            } else {
                any(port)
            })
        };
        let port = |name, default| {
            let port = variables.parsed::<NonZeroU16>(name)?;
            Ok::<_, EnvironmentError>(port.map_or(default, NonZeroU16::get))
        };
        let readiness = port("ENVOY_STATUS_PORT", 15021)?;
        let prometheus = port("ENVOY_PROMETHEUS_PORT", 15090)?;
        Ok(Ports {
            hbone: given("WAYPOINT_HBONE_ADDR", any(waypoint_hbone::PORT))?,
            admin: given(
                "WAYPOINT_ADMIN_ADDR",
                loopback(config.port("proxyAdminPort")?),
            )?,
            readiness: given("WAYPOINT_READINESS_ADDR", any(readiness))?,
            stats: given("WAYPOINT_STATS_ADDR", metrics(config.port("statusPort")?)?)?,
            prometheus: given("WAYPOINT_PROMETHEUS_ADDR", metrics(prometheus)?)?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Ports, EnvironmentError> {
        let variables = Variables::new(
            pairs
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
        );
        let config = ProxyConfig::read(&variables, &BTreeMap::new())?;
        Ports::read(&variables, &config)
    }

    #[test]
    fn istios_ports_unless_something_else_is_said() {
        let ports = read(&[]).unwrap();
        let all = [
            ports.hbone,
            ports.admin,
            ports.readiness,
            ports.stats,
            ports.prometheus,
        ];
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(
            all,
            [
                "[::]:15008",
                "127.0.0.1:15000",
                "[::]:15021",
                "[::]:15020",
                "[::]:15090"
            ]
        );
        let ports = read(&[
            ("ENVOY_STATUS_PORT", "16021"),
            ("ENVOY_PROMETHEUS_PORT", "16090"),
            ("METRICS_LOCALHOST_ACCESS_ONLY", "true"),
            (
                "PROXY_CONFIG",
                r#"{"statusPort": 16020, "proxyAdminPort": 16000}"#,
            ),
            ("WAYPOINT_HBONE_ADDR", "127.0.0.9:15008"),
        ])
        .unwrap();
        assert_eq!(ports.readiness.port(), 16021);
        assert_eq!(ports.stats.to_string(), "127.0.0.1:16020");
        assert_eq!(ports.prometheus.to_string(), "127.0.0.1:16090");
        assert_eq!(ports.admin.to_string(), "127.0.0.1:16000");
        assert_eq!(ports.hbone.to_string(), "127.0.0.9:15008");
        for wrong in [
            ("ENVOY_STATUS_PORT", "70000"),
            ("ENVOY_PROMETHEUS_PORT", "0"),
            ("PROXY_CONFIG", r#"{"statusPort": 0}"#),
            ("WAYPOINT_STATS_ADDR", "here"),
            ("METRICS_LOCALHOST_ACCESS_ONLY", "perhaps"),
            ("PROXY_CONFIG", r#"{"statusPort": "many"}"#),
        ] {
            assert!(read(&[wrong]).is_err(), "{wrong:?}");
        }
    }
}
