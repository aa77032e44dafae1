//! What of a stream its connection to an endpoint depends on, beside the endpoint: streams that differ in it share none.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::transport_socket::{ProxyProtocol, Socket};
use waypoint_config::model::cluster::upstream_protocol::UpstreamProtocol;
use waypoint_config::model::cluster::upstream_tls::UpstreamTls;
use waypoint_hbone::tls::origination::{ServerToReach, is_server_name};

/// Of most clusters: nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leg {
    /// The host that the request is for, where TLS says or checks it.
    pub(crate) host: Option<Arc<str>>,
    /// The client, and where it wanted to go, where the endpoint is told (PROXY protocol).
    pub(crate) client: Option<(SocketAddr, SocketAddr)>,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
    /// Which of both is agreed on.
    Either,
    /// Whatever client and endpoint do.
    Bytes,
}

impl Leg {
    /// Of a stream from `client` (its address, and the one that it wanted), for `host`.
    pub(crate) fn of(
        cluster: &Cluster,
        socket: &Socket,
        client: (SocketAddr, SocketAddr),
        host: Option<&str>,
    ) -> Leg {
        let asks = cluster.server_name.host || cluster.server_name.verified;
        let host = host.filter(|_| asks && socket.tls.is_some());
        Leg {
            host: host.map(Into::into),
            client: socket.proxy_protocol.map(|_| client),
        }
    }

    /// What TLS says to the server and checks of it.
    pub(crate) fn server<'a>(
        &'a self,
        cluster: &Cluster,
        tls: &'a UpstreamTls,
        speaks: Speaks,
    ) -> ServerToReach<'a> {
        let from = cluster.server_name;
        let host = self.host.as_deref();
        let is_name = |host: &&str| host.parse::<IpAddr>().is_err() && is_server_name(host);
        let sni = host
            .filter(|host| from.host && is_name(host))
            .or(tls.sni.as_deref());
        let name = match tls.verifies_sni {
            true => sni,
            false => host.filter(|_| from.verified),
        };
        ServerToReach {
            sni,
            name,
            alpn: alpn(cluster, tls, speaks),
        }
    }
}

/// What is offered, where it isn't what the settings have.
fn alpn(cluster: &Cluster, tls: &UpstreamTls, speaks: Speaks) -> Option<&'static [&'static [u8]]> {
    let negotiated = cluster.protocol == UpstreamProtocol::Negotiated;
    let wanted: &'static [&'static [u8]] = match speaks {
        Speaks::Http1 => &[b"http/1.1"],
        Speaks::Http2 => &[b"h2"],
        Speaks::Either => &[b"h2", b"http/1.1"],
        Speaks::Bytes => return None,
    };
    // What was agreed on before must be agreed on again.
    let again = negotiated && speaks != Speaks::Either;
    (again || tls.alpn.is_empty()).then_some(wanted)
}

/// The head that tells the endpoint of the client. TLS comes after it.
pub(crate) fn proxy_header(
    version: ProxyProtocol,
    (source, destination): (SocketAddr, SocketAddr),
) -> Cow<'static, [u8]> {
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() != destination.is_ipv4() || destination.ip().is_unspecified() {
        return unknown(version);
    }
    match version {
        ProxyProtocol::V1 => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let text = format!(
                "PROXY {family} {} {} {} {}\r\n",
                source.ip(),
                destination.ip(),
                source.port(),
                destination.port()
            );
            text.into_bytes().into()
        }
        ProxyProtocol::V2 => {
            let mut head = SIGNATURE.to_vec();
            let mut addresses = Vec::with_capacity(36);
            let mut family = 0x11;
            for ip in [source.ip(), destination.ip()] {
                match ip {
                    IpAddr::V4(v4) => addresses.extend(v4.octets()),
                    IpAddr::V6(v6) => {
                        family = 0x21;
                        addresses.extend(v6.octets());
                    }
                }
            }
            addresses.extend(source.port().to_be_bytes());
            addresses.extend(destination.port().to_be_bytes());
            head.extend([0x21, family, 0, addresses.len() as u8]);
            head.extend(addresses);
            head.into()
        }
    }
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Of what the waypoint asks by itself: there is no client.
fn unknown(version: ProxyProtocol) -> Cow<'static, [u8]> {
    match version {
        ProxyProtocol::V1 => b"PROXY UNKNOWN\r\n".into(),
        // LOCAL.
        ProxyProtocol::V2 => [SIGNATURE.as_slice(), &[0x20, 0, 0, 0]].concat().into(),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_in_both_versions() {
        let addresses = (
            "10.0.0.1:4711".parse().unwrap(),
            "10.9.0.1:80".parse().unwrap(),
        );
        let head = proxy_header(ProxyProtocol::V1, addresses);
        assert_eq!(&*head, b"PROXY TCP4 10.0.0.1 10.9.0.1 4711 80\r\n");
        let head = proxy_header(ProxyProtocol::V2, addresses);
        assert_eq!(
            &head[12..],
            [
                0x21, 0x11, 0, 12, 10, 0, 0, 1, 10, 9, 0, 1, 0x12, 0x67, 0, 80
            ]
        );
        let v6 = (
            "[fd00::1]:1".parse().unwrap(),
            "[fd00::2]:2".parse().unwrap(),
        );
        let head = proxy_header(ProxyProtocol::V2, v6);
        assert_eq!((head[13], head[15], head.len()), (0x21, 36, 52));
        let nowhere = (addresses.0, "0.0.0.0:0".parse().unwrap());
        let head = proxy_header(ProxyProtocol::V1, nowhere);
        assert_eq!(&*head, b"PROXY UNKNOWN\r\n");
    }
}
