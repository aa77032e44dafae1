//! Where a name may lead that nobody configured. Whoever owns a name below a wildcard says where it is, and that must not be this
//! process's own ports, nor what only its machine may ask.
//!
//! Envoy connects wherever an answer leads, unless `resolved_address_filter` says otherwise. Addresses of pods and Services are as
//! good as others here: who may go there is for the network's policies to say, as it is for the client itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use waypoint_filters::matcher::cidr::contains;

/// What is allowed though it is near.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allowed(Arc<[IpNet]>);

impl Allowed {
    pub(crate) fn new(near: &[IpNet]) -> Allowed {
        Allowed(near.into())
    }

    /// Whether a name may lead to this address.
    pub(crate) fn lets(&self, address: IpAddr) -> bool {
        !is_near(address) || self.0.iter().any(|net| contains(net, address))
    }
}

/// The metadata service of one cloud, which is of no link.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether an address is of this machine or its link, or of nobody.
fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            // 0.0.0.0 leads to this machine.
            v4.octets()[0] == 0
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6 == METADATA
                || carried(v6).is_some_and(|v4| is_near(v4.into()))
        }
    }
}

/// The IPv4 address that an IPv6 one stands for beside the mapped ones: translated (NAT64, RFC 6052), 6to4, or compatible.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| {
        let bits = (u32::from(high) << 16) | u32::from(low);
        Some(Ipv4Addr::from_bits(bits))
    };
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => of(high, low),
        [0x2002, high, low, ..] => of(high, low),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_nothing_near() {
        let none = Allowed::default();
        for near in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "::127.0.0.1",
        ] {
            assert!(!none.lets(near.parse().unwrap()), "{near}");
        }
        for far in [
            "10.0.0.1",
            "1.1.1.1",
            "100.64.0.1",
            "fd00::1",
            "2606:4700::1111",
            "64:ff9b::101:101",
        ] {
            assert!(none.lets(far.parse().unwrap()), "{far}");
        }
    }

    #[test]
    fn what_is_near_can_be_allowed() {
        let allowed = Allowed::new(&["127.9.0.0/16".parse().unwrap()]);
        assert!(allowed.lets([127, 9, 1, 1].into()));
        assert!(allowed.lets("::ffff:127.9.1.1".parse().unwrap()));
        assert!(!allowed.lets([127, 0, 0, 1].into()));
    }
}
