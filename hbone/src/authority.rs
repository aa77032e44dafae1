//! The authority of a CONNECT request: where a tunnel is to lead.
//!
//! Strict, after RFC 9110 §7.1 and RFC 9113 §8.5: host and port, both present, nothing else. A port has one to five
//! digits, isn't zero and fits 16 bits. IPv6 stands in brackets, without a zone. IPv4 is four decimal numbers
//! without leading zeros. A host is a DNS name, kept as it came; its last label isn't all digits, or `1.2.3.04`
//! and `1.2.3` would be taken for names and later, by another parser, for addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

const MAX_HOST_LEN: usize = 253;
const MAX_LABEL_LEN: usize = 63;

/// Where a tunnel is to lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// `192.0.2.1:80` or `[2001:db8::1]:80`.
    Address(SocketAddr),
    /// `reviews.default.svc.cluster.local:9080`.
    Host { host: Box<str>, port: u16 },
}

/// Why a text isn't a CONNECT authority. The fault is the peer's; it's told 400 (or what the listener says).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("no port")]
    PortMissing,
    #[error("not a port (1 to 65535)")]
    Port,
    #[error("not an IPv6 address in brackets")]
    Ipv6,
    #[error("not a host name or IPv4 address")]
    Host,
}

impl Authority {
    /// The port, never zero.
    pub fn port(&self) -> u16 {
        match self {
            Authority::Address(address) => address.port(),
            Authority::Host { port, .. } => *port,
        }
    }

    /// The address, if the authority is one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Authority::Address(address) => Some(*address),
            Authority::Host { .. } => None,
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Authority, AuthorityError> {
        if let Some(rest) = text.strip_prefix('[') {
            let (ip, port) = rest.split_once(']').ok_or(AuthorityError::Ipv6)?;
            let ip: Ipv6Addr = ip.parse().map_err(|_| AuthorityError::Ipv6)?;
            let port = parse_port(port.strip_prefix(':').ok_or(AuthorityError::PortMissing)?)?;
            return Ok(Authority::Address((IpAddr::V6(ip), port).into()));
        }
        let (host, port) = text.split_once(':').ok_or(AuthorityError::PortMissing)?;
        let port = parse_port(port)?;
        if let Ok(ip) = host.parse::<Ipv4Addr>() {
            return Ok(Authority::Address((IpAddr::V4(ip), port).into()));
        }
        check_host(host)?;
        Ok(Authority::Host {
            host: host.into(),
            port,
        })
    }
}

fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    if text.is_empty() {
        return Err(AuthorityError::PortMissing);
    }
    // `u16::from_str` would take a leading '+' and any number of zeros.
    if text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AuthorityError::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(AuthorityError::Port),
        Ok(port) => Ok(port),
    }
}

fn check_host(host: &str) -> Result<(), AuthorityError> {
    if host.is_empty() || host.len() > MAX_HOST_LEN {
        return Err(AuthorityError::Host);
    }
    let label_is_good = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL_LEN
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric_end = last.bytes().all(|b| b.is_ascii_digit());
    if numeric_end || !host.split('.').all(label_is_good) {
        return Err(AuthorityError::Host);
    }
    Ok(())
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Authority::Address(address) => address.fmt(f),
            Authority::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms() {
        let parse = |text: &str| text.parse::<Authority>().unwrap();
        assert_eq!(
            parse("10.0.0.1:9080"),
            Authority::Address("10.0.0.1:9080".parse().unwrap())
        );
        assert_eq!(
            parse("[2001:db8::1]:80"),
            Authority::Address("[2001:db8::1]:80".parse().unwrap())
        );
        assert_eq!(
            parse("reviews.default.svc.cluster.local:65535"),
            Authority::Host {
                host: "reviews.default.svc.cluster.local".into(),
                port: 65535
            }
        );
        for text in ["10.0.0.1:9080", "[2001:db8::1]:80", "a_b-c.d:1"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        use AuthorityError::*;
        for (text, error) in [
            ("", PortMissing),
            ("10.0.0.1", PortMissing),
            ("10.0.0.1:", PortMissing),
            ("[::1]", PortMissing),
            ("[::1]80", PortMissing),
            ("host:0", Port),
            ("host:65536", Port),
            ("host:+80", Port),
            ("host:000080", Port),
            ("host:80x", Port),
            ("host:80/path", Port),
            ("::1:80", Port),
            ("[::1:80", Ipv6),
            ("[10.0.0.1]:80", Ipv6),
            ("[fe80::1%eth0]:80", Ipv6),
            ("[]:80", Ipv6),
            (":80", Host),
            ("user@host:80", Host),
            ("10.0.0.01:80", Host),
            ("10.0.1:80", Host),
            ("256.0.0.1:80", Host),
            ("a..b:80", Host),
            ("a.:80", Host),
            ("-a:80", Host),
            ("ho st:80", Host),
            ("höst:80", Host),
            ("http://host:80", Port),
        ] {
            assert_eq!(text.parse::<Authority>(), Err(error), "{text:?}");
        }
        assert_eq!(
            format!("{}:80", "a".repeat(64)).parse::<Authority>(),
            Err(Host)
        );
        assert_eq!(
            format!("{}a:80", "a.".repeat(127)).parse::<Authority>(),
            Err(Host)
        );
    }
}
