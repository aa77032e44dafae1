//! `filter_chain_matcher`: from destination address, port and protocol to a filter chain.
//!
//! istiod sends xDS unified matchers; this is the subset of inputs that it uses, as typed trees. The same
//! range may stand several times (services without an address are all `0.0.0.0/32`): ranges are tried
//! longest prefix first, then in order, and the first that leads to a chain wins.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::FilterStateInput;
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::{
    Matcher, matcher::MatcherType, matcher::OnMatch, matcher::matcher_tree::TreeType,
    matcher::on_match,
};
use ipnet::IpNet;
use waypoint_filters::xds::coverage::decode_any;
use waypoint_filters::xds::rejected::Refusal;

use crate::model::listener::chain::ChainSlot;
use crate::model::listener::ip_matcher::IpMatcher;

const INPUTS: &str = "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.";
/// The filter state with the authority of the CONNECT, the only one that is matched.
const AUTHORITY: &str = "io.istio.connect_authority";
const MAX_DEPTH: usize = 16;

/// What is known about a connection before its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct ChainInput<'a> {
    pub destination: SocketAddr,
    /// `io.istio.connect_authority`.
    pub authority: &'a str,
    /// `None`: not sniffed (yet).
    pub protocol: Option<ApplicationProtocol>,
}

/// What the first bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApplicationProtocol {
    Http10,
    Http11,
    H2c,
    /// Anything else, or a server that speaks first.
    Unknown,
}

/// What the matcher says.
pub enum ChainChoice {
    Chain(Arc<ChainSlot>),
    /// The answer depends on the first bytes, which have to be looked at.
    NeedsProtocol,
    None,
}

/// A compiled matcher.
#[derive(Debug)]
pub struct FilterChainMatcher(Node);

#[derive(Debug)]
enum Node {
    Chain(Arc<ChainSlot>),
    Tree {
        tree: Tree,
        no_match: Option<Box<Node>>,
    },
}

#[derive(Debug)]
enum Tree {
    /// Single addresses, which nearly all are, and longer ranges, longest prefix first.
    Ip {
        hosts: HashMap<IpAddr, Vec<Arc<Node>>>,
        ranges: Vec<(IpNet, Arc<Node>)>,
    },
    Port(HashMap<u16, Node>),
    Protocol(Vec<(ApplicationProtocol, Node)>),
    Authority(HashMap<String, Node>),
}

/// The chain with this name, if the listener has it.
pub(crate) type ChainByName<'a> = dyn Fn(&str) -> Option<Arc<ChainSlot>> + 'a;

impl FilterChainMatcher {
    pub(crate) fn from_proto(
        proto: &Matcher,
        chains: &ChainByName<'_>,
    ) -> Result<FilterChainMatcher, Refusal> {
        matcher(proto, chains, 0).map(FilterChainMatcher)
    }

    pub fn lookup(&self, input: ChainInput<'_>) -> ChainChoice {
        self.0.lookup(&input)
    }

    /// An address that leads to a chain of which `wanted` is true, if the chain is found by address.
    pub fn address_of(&self, wanted: &dyn Fn(&str) -> bool) -> Option<IpAddr> {
        self.0.address_of(None, wanted)
    }
}

impl Node {
    fn lookup(&self, input: &ChainInput<'_>) -> ChainChoice {
        let Node::Tree { tree, no_match } = self else {
            let Node::Chain(slot) = self else {
                return ChainChoice::None;
            };
            return ChainChoice::Chain(slot.clone());
        };
        match tree.lookup(input) {
            ChainChoice::None => match no_match {
                Some(node) => node.lookup(input),
                None => ChainChoice::None,
            },
            found => found,
        }
    }
}

impl Node {
    fn address_of(&self, at: Option<IpAddr>, wanted: &dyn Fn(&str) -> bool) -> Option<IpAddr> {
        match self {
            Node::Chain(slot) => at.filter(|_| wanted(&slot.name)),
            Node::Tree { tree, no_match } => {
                let below = tree.children(at);
                let mut found = below
                    .into_iter()
                    .map(|(at, node)| node.address_of(at, wanted));
                let no_match = || no_match.as_ref()?.address_of(at, wanted);
                found.find_map(|address| address).or_else(no_match)
            }
        }
    }
}

impl Tree {
    /// All nodes below, with the address that leads to each.
    fn children(&self, at: Option<IpAddr>) -> Vec<(Option<IpAddr>, &Node)> {
        match self {
            Tree::Ip { hosts, ranges } => {
                let hosts = hosts
                    .iter()
                    .flat_map(|(ip, nodes)| nodes.iter().map(|node| (Some(*ip), &**node)));
                let ranges = ranges.iter().map(|(net, node)| (Some(net.addr()), &**node));
                let mut all: Vec<_> = hosts.chain(ranges).collect();
                all.sort_by_key(|(ip, _)| *ip);
                all
            }
            Tree::Port(ports) => ports.values().map(|node| (at, node)).collect(),
            Tree::Protocol(protocols) => protocols.iter().map(|(_, node)| (at, node)).collect(),
            Tree::Authority(names) => names.values().map(|node| (at, node)).collect(),
        }
    }

    fn lookup(&self, input: &ChainInput<'_>) -> ChainChoice {
        match self {
            Tree::Port(ports) => child(ports.get(&input.destination.port()), input),
            Tree::Authority(names) => child(names.get(input.authority), input),
            Tree::Protocol(protocols) => match input.protocol {
                None => ChainChoice::NeedsProtocol,
                Some(protocol) => child(
                    protocols
                        .iter()
                        .find(|(p, _)| *p == protocol)
                        .map(|(_, n)| n),
                    input,
                ),
            },
            Tree::Ip { hosts, ranges } => {
                let address = input.destination.ip().to_canonical();
                let exact = hosts.get(&address).into_iter().flatten();
                let wider = ranges
                    .iter()
                    .filter(|(net, _)| net.contains(&address))
                    .map(|(_, n)| n);
                for node in exact.chain(wider) {
                    match node.lookup(input) {
                        ChainChoice::None => {}
                        found => return found,
                    }
                }
                ChainChoice::None
            }
        }
    }
}

fn child(node: Option<&Node>, input: &ChainInput<'_>) -> ChainChoice {
    node.map_or(ChainChoice::None, |node| node.lookup(input))
}

fn matcher(proto: &Matcher, chains: &ChainByName<'_>, depth: usize) -> Result<Node, Refusal> {
    if depth > MAX_DEPTH {
        return Err(Refusal::new("matcher", "is nested too deeply"));
    }
    let tree = match &proto.matcher_type {
        Some(MatcherType::MatcherTree(tree)) => tree,
        Some(MatcherType::MatcherList(_)) => return Err(Refusal::unsupported("matcher_list")),
        None => return Err(Refusal::missing("matcher_type")),
    };
    let input = extension(tree.input.as_ref(), "input")?;
    let kind = input
        .type_url
        .strip_prefix(INPUTS)
        .unwrap_or(&input.type_url);
    let entries = |tree: &Option<TreeType>| match tree {
        Some(TreeType::ExactMatchMap(map)) => Ok(map.map.clone()),
        _ => Err(Refusal::unsupported("tree_type")),
    };
    let tree = match kind {
        "DestinationIPInput" => ip_tree(tree.tree_type.as_ref(), chains, depth)?,
        "DestinationPortInput" => {
            let mut ports = HashMap::new();
            for (port, then) in entries(&tree.tree_type)? {
                let number = port
                    .parse()
                    .map_err(|_| Refusal::new("map", format!("{port:?} is no port")))?;
                ports.insert(number, on_match(Some(&then), chains, depth)?);
            }
            Tree::Port(ports)
        }
        "ApplicationProtocolInput" => {
            let mut protocols = Vec::new();
            for (name, then) in entries(&tree.tree_type)? {
                // The quotes are part of Envoy's value.
                let protocol = match name.as_str() {
                    "'http/1.0'" => ApplicationProtocol::Http10,
                    "'http/1.1'" => ApplicationProtocol::Http11,
                    "'h2c'" => ApplicationProtocol::H2c,
                    _ => return Err(Refusal::unsupported(format!("application protocol {name}"))),
                };
                protocols.push((protocol, on_match(Some(&then), chains, depth)?));
            }
            Tree::Protocol(protocols)
        }
        "FilterStateInput" => {
            let input: FilterStateInput = decode_any(input)?;
            if input.key != AUTHORITY {
                return Err(Refusal::unsupported(format!("input key {}", input.key)));
            }
            let mut names = HashMap::new();
            for (name, then) in entries(&tree.tree_type)? {
                names.insert(name, on_match(Some(&then), chains, depth)?);
            }
            Tree::Authority(names)
        }
        other => return Err(Refusal::unsupported(format!("input {other}"))),
    };
    let no_match = match &proto.on_no_match {
        None => None,
        Some(then) => Some(Box::new(on_match(Some(then), chains, depth)?)),
    };
    Ok(Node::Tree { tree, no_match })
}

fn ip_tree(
    tree: Option<&TreeType>,
    chains: &ChainByName<'_>,
    depth: usize,
) -> Result<Tree, Refusal> {
    let Some(TreeType::CustomMatch(custom)) = tree else {
        return Err(Refusal::unsupported("tree_type"));
    };
    let any = extension(Some(custom), "custom_match")?;
    let proto: IpMatcher = decode_any(any).map_err(|e| e.within("custom_match"))?;
    let mut hosts: HashMap<IpAddr, Vec<Arc<Node>>> = HashMap::new();
    let mut ranges = Vec::new();
    for (i, range) in proto.range_matchers.iter().enumerate() {
        let field = |e: Refusal| e.within(format!("range_matchers[{i}]"));
        let node = Arc::new(on_match(range.on_match.as_ref(), chains, depth).map_err(field)?);
        for cidr in &range.ranges {
            let net = cidr_range(
                &cidr.address_prefix,
                cidr.prefix_len.as_ref().map(|l| l.value),
            )
            .map_err(field)?;
            if net.prefix_len() == net.max_prefix_len() {
                hosts.entry(net.addr()).or_default().push(node.clone());
            } else {
                ranges.push((net, node.clone()));
            }
        }
    }
    ranges.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
    Ok(Tree::Ip { hosts, ranges })
}

fn cidr_range(prefix: &str, length: Option<u32>) -> Result<IpNet, Refusal> {
    let address: Option<IpAddr> = prefix.parse().ok();
    address
        .zip(u8::try_from(length.unwrap_or(0)).ok())
        .and_then(|(address, length)| IpNet::new(address, length).ok())
        .map(|net| net.trunc())
        .ok_or_else(|| Refusal::new("ranges", format!("{prefix}/{length:?} is no range")))
}

fn on_match(
    proto: Option<&OnMatch>,
    chains: &ChainByName<'_>,
    depth: usize,
) -> Result<Node, Refusal> {
    match proto.and_then(|p| p.on_match.as_ref()) {
        None => Err(Refusal::missing("on_match")),
        Some(on_match::OnMatch::Matcher(inner)) => matcher(inner, chains, depth + 1),
        Some(on_match::OnMatch::Action(action)) => {
            let any = extension(Some(action), "action")?;
            let name: String = decode_any(any).map_err(|e| e.within("action"))?;
            let slot = chains(&name).ok_or_else(|| {
                Refusal::new("action", format!("there is no filter chain {name:?}"))
            })?;
            Ok(Node::Chain(slot))
        }
    }
}

fn extension<'a>(
    proto: Option<&'a TypedExtensionConfig>,
    field: &str,
) -> Result<&'a envoy_types::pb::google::protobuf::Any, Refusal> {
    proto
        .and_then(|p| p.typed_config.as_ref())
        .ok_or_else(|| Refusal::missing(format!("{field}.typed_config")))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Any;
    use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherTree, matcher_tree::MatchMap};
    use prost::Message as _;

    use super::*;
    use crate::model::listener::chain::FilterChain;

    /// By the filter state `key`: the authority `a:80` leads to a chain.
    fn by_filter_state(key: &str) -> Matcher {
        let extension = |type_name: &str, value: Vec<u8>| TypedExtensionConfig {
            name: "authority-filter-state".into(),
            typed_config: Some(Any {
                type_url: format!("type.googleapis.com/{type_name}"),
                value,
            }),
        };
        let input = FilterStateInput {
            key: key.into(),
            ..FilterStateInput::default()
        };
        let action = extension(
            "google.protobuf.StringValue",
            "c".to_owned().encode_to_vec(),
        );
        let on_match = OnMatch {
            on_match: Some(on_match::OnMatch::Action(action)),
            ..OnMatch::default()
        };
        let tree = MatcherTree {
            input: Some(extension(
                "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput",
                input.encode_to_vec(),
            )),
            tree_type: Some(TreeType::ExactMatchMap(MatchMap {
                map: [("a:80".to_owned(), on_match)].into(),
            })),
        };
        Matcher {
            matcher_type: Some(MatcherType::MatcherTree(tree)),
            ..Matcher::default()
        }
    }

    #[test]
    fn only_the_authority_is_matched_of_filter_state() {
        let chain = Arc::new(ChainSlot::new("c", FilterChain::Closed("".into())));
        let chains = |_: &str| Some(chain.clone());
        let compiled = |key| FilterChainMatcher::from_proto(&by_filter_state(key), &chains);
        let choice = compiled(AUTHORITY).map(|matcher| {
            matcher.lookup(ChainInput {
                destination: ([10, 0, 0, 1], 80).into(),
                authority: "a:80",
                protocol: None,
            })
        });
        assert!(matches!(choice, Ok(ChainChoice::Chain(_))));
        assert!(compiled("io.istio.source").is_err());
    }
}
