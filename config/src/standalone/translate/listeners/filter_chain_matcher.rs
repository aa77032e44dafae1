//! The unified matcher of `main_internal`: destination address, then port, then application protocol.

use std::net::IpAddr;

use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3 as inputs;
use envoy_types::pb::google::protobuf::{Any, StringValue};
use envoy_types::pb::xds::core::v3 as xds;
use envoy_types::pb::xds::r#type::matcher::v3 as matcher;
use ipnet::IpNet;
use matcher::matcher::matcher_tree::{MatchMap, TreeType};
use matcher::matcher::on_match::OnMatch as Outcome;
use matcher::matcher::{MatcherTree, MatcherType, OnMatch};

use crate::model::listener::ip_matcher::{IpMatcher, IpRangeMatcher};
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::uint32;

/// A range of destination addresses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AddressRange(IpNet);

impl AddressRange {
    pub(crate) fn of(address: IpAddr) -> AddressRange {
        AddressRange(address.into())
    }

    pub(super) fn of_net(net: IpNet) -> AddressRange {
        AddressRange(net)
    }

    fn cidr(&self) -> xds::CidrRange {
        xds::CidrRange {
            address_prefix: self.0.addr().to_string(),
            prefix_len: uint32(self.0.prefix_len().into()),
        }
    }
}

/// The chain of this name.
pub(super) fn to_chain(name: &str) -> OnMatch {
    let value = any(&StringValue {
        value: name.to_owned(),
    });
    OnMatch {
        on_match: Some(Outcome::Action(named(name, value))),
        ..OnMatch::default()
    }
}

/// The HTTP chain if the first bytes look like HTTP, else the TCP chain.
pub(super) fn sniffed(tcp: &str, http: &str) -> OnMatch {
    let map = ["'h2c'", "'http/1.1'"].map(|protocol| (protocol.to_owned(), to_chain(http)));
    nested(matcher::Matcher {
        on_no_match: Some(Box::new(to_chain(tcp))),
        matcher_type: Some(exact(
            named(
                "application-protocol",
                any(&inputs::ApplicationProtocolInput {}),
            ),
            map.into(),
        )),
    })
}

/// By destination port.
pub(super) fn by_port(ports: Vec<(String, OnMatch)>) -> OnMatch {
    nested(matcher::Matcher {
        on_no_match: None,
        matcher_type: Some(exact(
            named("port", any(&inputs::DestinationPortInput {})),
            ports,
        )),
    })
}

/// By destination address; the longest range wins.
pub(super) fn by_address(ranges: Vec<(Vec<AddressRange>, OnMatch)>) -> matcher::Matcher {
    let range_matchers = ranges.into_iter().map(|(ranges, on_match)| IpRangeMatcher {
        ranges: ranges.iter().map(AddressRange::cidr).collect(),
        on_match: Some(on_match),
    });
    let ip_matcher = IpMatcher {
        range_matchers: range_matchers.collect(),
    };
    matcher::Matcher {
        on_no_match: None,
        matcher_type: Some(MatcherType::MatcherTree(MatcherTree {
            input: Some(named("ip", any(&inputs::DestinationIpInput {}))),
            tree_type: Some(TreeType::CustomMatch(named("ip", any(&ip_matcher)))),
        })),
    }
}

fn exact(input: xds::TypedExtensionConfig, map: Vec<(String, OnMatch)>) -> MatcherType {
    let map = MatchMap {
        map: map.into_iter().collect(),
    };
    MatcherType::MatcherTree(MatcherTree {
        input: Some(input),
        tree_type: Some(TreeType::ExactMatchMap(map)),
    })
}

fn nested(matcher: matcher::Matcher) -> OnMatch {
    OnMatch {
        on_match: Some(Outcome::Matcher(Box::new(matcher))),
        ..OnMatch::default()
    }
}

fn named(name: &str, config: Any) -> xds::TypedExtensionConfig {
    xds::TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(config),
    }
}
