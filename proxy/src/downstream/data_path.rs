//! The data path as a whole: what tunnels and the streams in them share.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use waypoint_config::store::SnapshotHandle;
use waypoint_filters::metrics::{Counter, MetricRegistry};

use crate::downstream::floods::Floods;
use crate::overload::Overload;
use crate::router::terminals::Terminals;
use crate::upstream::reach::Reach;

/// One for the process.
pub(crate) struct DataPath {
    pub(crate) snapshot: SnapshotHandle,
    pub(crate) reach: Arc<Reach>,
    pub(crate) overload: Arc<Overload>,
    pub(crate) panics: Counter,
    pub(crate) floods: Floods,
    own_ports: Vec<u16>,
}

impl DataPath {
    /// `own_ports` are the waypoint's, which no tunnel reaches.
    pub(crate) fn new(
        snapshot: SnapshotHandle,
        terminals: Terminals,
        own_ports: Vec<u16>,
        metrics: &MetricRegistry,
    ) -> Arc<DataPath> {
        Arc::new(DataPath {
            snapshot,
            reach: terminals.reach,
            overload: terminals.overload,
            own_ports,
            floods: Floods::new(metrics),
            panics: metrics.counter(
                "waypoint_panics_total",
                "Panics; each ended its own tunnel.",
            ),
        })
    }

    /// Whether no tunnel may lead to `destination`, whatever configuration says.
    pub(crate) fn is_forbidden(&self, destination: SocketAddr, local: SocketAddr) -> bool {
        is_link_local(destination.ip())
            || (destination.ip() == local.ip() && self.own_ports.contains(&destination.port()))
    }
}

/// Addresses that no tunnel reaches, whatever configuration says: link-local ones (cloud metadata), and
/// the waypoint's own ports.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || v4.is_multicast(),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_link_local(IpAddr::V4(v4)),
            None => v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast(),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_told_in_every_spelling() {
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            assert!(is_link_local(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1", "127.0.0.1", "fd00::1"] {
            assert!(!is_link_local(address.parse().unwrap()), "{address}");
        }
    }
}
