//! Filter state: named objects that filters set on a stream or a connection and later stages read.
//!
//! Envoy shares objects marked `ONCE` or `TRANSITIVE` with the upstream connection. Here the tunnel's
//! stream hands them to the inner connection that it carries, in memory.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::stream::peer::Peer;

/// Destination of the inner connection: the CONNECT authority as an address.
pub const ORIGINAL_DST_LOCAL: &str = "envoy.filters.listener.original_dst.local_ip";
/// Source of the inner connection.
pub const ORIGINAL_DST_REMOTE: &str = "envoy.filters.listener.original_dst.remote_ip";
pub const CONNECT_AUTHORITY: &str = "io.istio.connect_authority";
pub const PEER_PRINCIPAL: &str = "io.istio.peer_principal";
pub const LOCAL_PRINCIPAL: &str = "io.istio.local_principal";
pub const DOWNSTREAM_PEER: &str = "downstream_peer";
pub const UPSTREAM_PEER: &str = "upstream_peer";

/// An object in filter state.
#[derive(Clone, Debug, PartialEq)]
pub enum FilterValue {
    String(Arc<str>),
    Address(SocketAddr),
    Peer(Arc<Peer>),
}

impl FilterValue {
    /// As `%FILTER_STATE(key:PLAIN)%` prints it.
    pub fn to_plain(&self) -> String {
        match self {
            FilterValue::String(s) => s.to_string(),
            FilterValue::Address(a) => a.to_string(),
            FilterValue::Peer(p) => p.to_string(),
        }
    }
}

/// How far an object travels beyond the stream that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    None,
    Once,
    Transitive,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    key: Arc<str>,
    value: FilterValue,
    sharing: Sharing,
}

/// The objects of one stream or connection. A handful at most, so a list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterState(Vec<Entry>);

impl FilterState {
    pub fn set(&mut self, key: &Arc<str>, value: FilterValue, sharing: Sharing) {
        let entry = Entry {
            key: key.clone(),
            value,
            sharing,
        };
        match self.0.iter_mut().find(|e| e.key == *key) {
            Some(existing) => *existing = entry,
            None => self.0.push(entry),
        }
    }

    pub fn get(&self, key: &str) -> Option<&FilterValue> {
        self.0.iter().find(|e| &*e.key == key).map(|e| &e.value)
    }

    /// The string object under `key`.
    pub fn string(&self, key: &str) -> Option<&Arc<str>> {
        match self.get(key)? {
            FilterValue::String(s) => Some(s),
            _ => None,
        }
    }

    /// The address object under `key`.
    pub fn address(&self, key: &str) -> Option<SocketAddr> {
        match self.get(key)? {
            FilterValue::Address(a) => Some(*a),
            _ => None,
        }
    }

    /// The peer object under `key`.
    pub fn peer(&self, key: &str) -> Option<&Arc<Peer>> {
        match self.get(key)? {
            FilterValue::Peer(p) => Some(p),
            _ => None,
        }
    }

    /// What the next connection inherits. `Once` objects are not passed on from there.
    pub fn shared(&self) -> FilterState {
        FilterState(
            self.0
                .iter()
                .filter(|e| e.sharing > Sharing::None)
                .map(|e| Entry {
                    sharing: match e.sharing {
                        Sharing::Transitive => Sharing::Transitive,
                        _ => Sharing::None,
                    },
                    ..e.clone()
                })
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_objects_travel_one_hop_and_transitive_ones_further() {
        let mut state = FilterState::default();
        let value = || FilterValue::String("v".into());
        state.set(&"none".into(), value(), Sharing::None);
        state.set(&"once".into(), value(), Sharing::Once);
        state.set(&"always".into(), value(), Sharing::Transitive);
        let next = state.shared();
        assert!(next.get("none").is_none());
        assert!(next.get("once").is_some());
        let beyond = next.shared();
        assert!(beyond.get("once").is_none());
        assert!(beyond.get("always").is_some());
    }
}
