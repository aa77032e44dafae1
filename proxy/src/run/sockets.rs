//! The ports of a waypoint, bound before anything is started.

use std::io;
use std::net::SocketAddr;

use crate::admin::Port;
use crate::process::listen::{ListenError, listen};
use crate::run::settings::RunOptions;

/// Where connections come in.
pub(super) struct Sockets {
    pub(super) hbone: std::net::TcpListener,
    pub(super) ports: Vec<(std::net::TcpListener, Port)>,
}

impl Sockets {
    pub(super) fn bind(options: &RunOptions) -> Result<Sockets, ListenError> {
        let hbone = listen(options.hbone_addr, "HBONE")?;
        let mut ports = vec![
            (listen(options.admin_addr, "admin")?, Port::Admin),
            (
                listen(options.readiness_addr, "readiness")?,
                Port::Readiness,
            ),
            (listen(options.stats_addr, "metrics")?, Port::Stats),
        ];
        if let Some(address) = options.envoy_stats_addr {
            ports.push((
                listen(address, "metrics, where Envoy has them")?,
                Port::EnvoyStats,
            ));
        }
        Ok(Sockets { hbone, ports })
    }

    /// HBONE, admin, readiness, metrics, and metrics again where Envoy has them.
    pub(super) fn addresses(&self) -> io::Result<[SocketAddr; 5]> {
        let mut addresses = [self.hbone.local_addr()?; 5];
        for (place, (listener, _)) in addresses.iter_mut().skip(1).zip(&self.ports) {
            *place = listener.local_addr()?;
        }
        Ok(addresses)
    }
}
