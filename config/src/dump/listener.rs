//! A listener as it is in force, and the route configurations that stand in it.
//!
//! Read with messages of a few fields, whose values stay slices of what was received: a listener of a large
//! mesh would take many times its size when it were decoded whole.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, encode_key, encode_varint, skip_field};

use crate::store::received::InForce;

/// `Listener.filter_chains`.
const FILTER_CHAINS: u32 = 3;
const CONNECTION_MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

#[derive(Clone, PartialEq, prost::Message)]
struct ListenerChains {
    #[prost(bytes = "bytes", repeated, tag = "3")]
    filter_chains: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChainName {
    #[prost(string, tag = "7")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChainFilters {
    #[prost(message, repeated, tag = "3")]
    filters: Vec<Filter>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Filter {
    #[prost(message, optional, tag = "4")]
    typed_config: Option<TypedConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TypedConfig {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ManagerRoutes {
    #[prost(bytes = "bytes", optional, tag = "4")]
    route_config: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RouteName {
    #[prost(string, tag = "1")]
    name: String,
}

/// The listener: the bytes that were received, but where other chains serve than those in them.
pub(super) fn body(in_force: &InForce) -> Bytes {
    if in_force.chains.is_none() {
        return in_force.body.clone();
    }
    let mut body = BytesMut::with_capacity(in_force.body.len());
    without_chains(&in_force.body, &mut body);
    for chain in chains(in_force) {
        encode_key(FILTER_CHAINS, WireType::LengthDelimited, &mut body);
        encode_varint(chain.len() as u64, &mut body);
        body.extend_from_slice(&chain);
    }
    body.freeze()
}

/// The chains that serve, in the listener's order.
fn chains(in_force: &InForce) -> Vec<Bytes> {
    let listener = ListenerChains::decode(in_force.body.clone()).unwrap_or_default();
    let serving = |chain: Bytes| match &in_force.chains {
        None => Some(chain),
        Some(chains) => {
            let name = ChainName::decode(chain).ok()?.name;
            chains.serving.get(&name).cloned()
        }
    };
    listener
        .filter_chains
        .into_iter()
        .filter_map(serving)
        .collect()
}

/// Copies everything but the chains. The store has decoded these bytes before.
fn without_chains(listener: &Bytes, out: &mut BytesMut) {
    let mut rest = listener.clone();
    while rest.has_remaining() {
        let before = rest.clone();
        let Ok((field, wire_type)) = decode_key(&mut rest) else {
            return;
        };
        if skip_field(wire_type, field, &mut rest, DecodeContext::default()).is_err() {
            return;
        }
        if field != FILTER_CHAINS {
            out.extend_from_slice(&before[..before.len() - rest.len()]);
        }
    }
}

/// The route configurations of its connection managers, by name.
pub(super) fn routes(in_force: &InForce) -> Vec<(Arc<str>, Bytes)> {
    chains(in_force)
        .into_iter()
        .filter_map(chain_routes)
        .collect()
}

fn chain_routes(chain: Bytes) -> Option<(Arc<str>, Bytes)> {
    let filters = ChainFilters::decode(chain).ok()?.filters;
    let mut configs = filters.into_iter().filter_map(|filter| filter.typed_config);
    let manager = configs.find(|config| config.type_url == CONNECTION_MANAGER)?;
    let routes = ManagerRoutes::decode(manager.value).ok()?.route_config?;
    let name = RouteName::decode(routes.clone()).ok()?.name;
    Some((name.into(), routes))
}
