//! What the way to hosts outside of the mesh takes of the settings.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

/// Settings of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outside {
    /// The file of the system's roots, where it isn't one of the usual.
    pub(crate) system_roots: Option<PathBuf>,
    /// Name servers in place of those of `/etc/resolv.conf`.
    pub(crate) dns_servers: Vec<SocketAddr>,
    /// What names that nobody configured may lead to though it is near ([`Allowed`](crate::upstream::dynamic::allowed::Allowed)).
    pub(crate) near_allowed: Vec<IpNet>,
}
