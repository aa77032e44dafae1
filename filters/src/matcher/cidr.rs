//! `CidrRange` as a network, and addresses compared with it.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::google::protobuf::UInt32Value;
use envoy_types::pb::xds::core::v3::CidrRange as XdsCidrRange;
use ipnet::IpNet;

use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::coverage::well_known::UINT32_VALUE;
use crate::xds::rejected::Refusal;

pub static CIDR_RANGE: Table = Table {
    name: "envoy.config.core.v3.CidrRange",
    fields: &[
        honoured(1, "address_prefix"),
        honoured(2, "prefix_len").of(&UINT32_VALUE),
    ],
    refused: "",
    required: &[required("address_prefix", &[1])],
};

/// The same message, where xDS has it of its own.
pub static XDS_CIDR_RANGE: Table = Table {
    name: "xds.core.v3.CidrRange",
    fields: CIDR_RANGE.fields,
    refused: "",
    required: CIDR_RANGE.required,
};

/// From proto; a missing prefix length is 0, as Envoy reads it.
pub fn from_proto(proto: &CidrRange) -> Result<IpNet, Refusal> {
    network(&proto.address_prefix, proto.prefix_len.as_ref())
}

/// As [`from_proto`], of the message that xDS has of its own.
pub fn from_xds(proto: &XdsCidrRange) -> Result<IpNet, Refusal> {
    network(&proto.address_prefix, proto.prefix_len.as_ref())
}

fn network(prefix: &str, length: Option<&UInt32Value>) -> Result<IpNet, Refusal> {
    let address: IpAddr = prefix
        .parse()
        .map_err(|_| Refusal::new("address_prefix", format!("{prefix:?} is not an IP address")))?;
    let length = length.map_or(0, |l| l.value);
    u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(address, length).ok())
        .map(|net| net.trunc())
        .ok_or_else(|| Refusal::new("prefix_len", format!("{length} is too long")))
}

/// Whether `net` holds the address; an IPv4-mapped one counts as IPv4.
pub fn contains(net: &IpNet, address: IpAddr) -> bool {
    net.contains(&address.to_canonical())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_addresses_in_every_spelling() {
        let range = |prefix: &str, length| CidrRange {
            address_prefix: prefix.into(),
            prefix_len: Some(UInt32Value { value: length }),
        };
        let net = from_proto(&range("10.1.2.3", 8)).unwrap();
        assert!(contains(&net, "10.9.9.9".parse().unwrap()));
        assert!(contains(&net, "::ffff:10.9.9.9".parse().unwrap()));
        assert!(!contains(&net, "11.0.0.1".parse().unwrap()));
        assert!(from_proto(&range("10.0.0.0", 33)).is_err());
        assert!(from_proto(&range("pod", 8)).is_err());
    }
}
