//! The host that a stream names, read.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

/// A host and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted<'a> {
    /// Without the brackets of an IPv6 address.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
}

/// The longest name that DNS has.
const MAX_NAME: usize = 253;

impl<'a> Wanted<'a> {
    /// From an authority, or a name alone. `None`: there can be no such host.
    pub(crate) fn parse(authority: &'a str, default_port: u16) -> Option<Wanted<'a>> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                match rest {
                    "" => (host, None),
                    rest => (host, Some(rest.strip_prefix(':')?)),
                }
            }
            None if authority.parse::<Ipv6Addr>().is_ok() => (authority, None),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            None => default_port,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok()?,
            Some(_) => return None,
        };
        let is_name = !host.is_empty() && host.len() <= MAX_NAME;
        (is_name && port > 0).then_some(Wanted { host, port })
    }

    /// The same for all spellings.
    pub(crate) fn key(&self) -> String {
        let mut key = String::with_capacity(self.host.len() + 6);
        key.push_str(self.host);
        key.make_ascii_lowercase();
        // Writing to memory doesn't fail.
        let _ = write!(key, ":{}", self.port);
        key
    }

    /// Where nothing is to be looked up.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(authority: &str) -> Option<(&str, u16)> {
        Wanted::parse(authority, 80).map(|wanted| (wanted.host, wanted.port))
    }

    #[test]
    fn a_host_has_a_port_or_gets_one() {
        assert_eq!(parse("a.test"), Some(("a.test", 80)));
        assert_eq!(parse("a.test:8080"), Some(("a.test", 8080)));
        assert_eq!(parse("[::1]:99"), Some(("::1", 99)));
        assert_eq!(parse("[::1]"), Some(("::1", 80)));
        assert_eq!(parse("::1"), Some(("::1", 80)));
        assert_eq!(parse("10.0.0.1:1"), Some(("10.0.0.1", 1)));
        let key = |authority| Wanted::parse(authority, 80).unwrap().key();
        assert_eq!(key("A.Test"), key("a.test:80"));
        assert_ne!(key("a.test"), key("a.test:81"));
    }

    #[test]
    fn what_is_no_host_is_none() {
        let long = "a".repeat(254);
        for text in [
            "", ":80", "a:", "a:b", "a:0", "a:65536", "a:+80", "a:80:80", "[a]", "[::1", "[::1]x",
            &long,
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
