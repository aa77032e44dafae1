//! Where a client's connection would go: from a host and a port to the address that a tunnel would name.

use std::net::{IpAddr, SocketAddr};

use waypoint_config::model::listener::chain::service_port;
use waypoint_config::model::listener::snapshot::Snapshot;
use waypoint_config::standalone::state::mesh_service::resolver_names;

/// What stands for the address where a chain is found without one.
const NO_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
/// Names that are listed where none is found.
const MAX_NAMES: usize = 20;

/// The address of a host, and the host's whole name; an error says what there is instead.
///
/// `namespace` is the client's, for short names.
pub(crate) fn find(
    snapshot: &Snapshot,
    (host, port): &(String, u16),
    namespace: &str,
) -> Result<(SocketAddr, Option<String>), String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok((SocketAddr::new(address, *port), None));
    }
    let ports = ports(snapshot);
    for whole in resolver_names(host, namespace) {
        let mut own = ports
            .iter()
            .filter(|(_, of)| *of == whole)
            .map(|(own, _)| *own);
        let Some(first) = own.next() else { continue };
        if first != *port && !own.clone().any(|own| own == *port) {
            let mut all: Vec<String> = std::iter::once(first)
                .chain(own)
                .map(|p| p.to_string())
                .collect();
            all.sort();
            all.dedup();
            return Err(format!(
                "{whole} has no port {port}, but {}",
                all.join(", ")
            ));
        }
        let wanted = |chain: &str| service_port(chain) == Some((*port, &whole));
        let address = snapshot.main.matcher.address_of(&wanted);
        return Ok((
            SocketAddr::new(address.unwrap_or(NO_ADDRESS), *port),
            Some(whole),
        ));
    }
    let mut known: Vec<&str> = ports.iter().map(|(_, host)| *host).collect();
    known.sort_unstable();
    known.dedup();
    let more = known.len().saturating_sub(MAX_NAMES);
    known.truncate(MAX_NAMES);
    let known = known.join(", ");
    Err(match more {
        0 => format!("this waypoint serves no {host}; it serves {known}"),
        more => format!("this waypoint serves no {host}; it serves {known} and {more} more"),
    })
}

/// All ports of all services that have a chain.
fn ports(snapshot: &Snapshot) -> Vec<(u16, &str)> {
    let chains = snapshot.main.chains.keys();
    chains.filter_map(|name| service_port(name)).collect()
}
