//! Filter chains and the slots that hold them.
//!
//! A chain that was refused keeps its last good version; one that never had any is closed: its streams
//! are answered 503, or reset, with the reason in the log. Nothing fails open.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::model::http::connection_manager::HttpConnectionManager;
use crate::model::listener::tcp_proxy::TcpChain;

/// What runs on an inner connection.
#[derive(Debug)]
pub enum FilterChain {
    Http(Arc<HttpConnectionManager>),
    Tcp(Arc<TcpChain>),
    /// Refused, and there never was a good version; the text says why, for the log.
    Closed(Arc<str>),
}

/// A named place for a chain. Requests load the current version when they begin and keep it to their end.
pub struct ChainSlot {
    pub name: Arc<str>,
    chain: ArcSwap<FilterChain>,
}

impl ChainSlot {
    pub fn new(name: impl Into<Arc<str>>, chain: FilterChain) -> ChainSlot {
        ChainSlot {
            name: name.into(),
            chain: ArcSwap::from_pointee(chain),
        }
    }

    /// The current version.
    pub fn load(&self) -> Arc<FilterChain> {
        self.chain.load_full()
    }

    /// A cheap borrow of the current version, not to be held over an await.
    pub fn peek(&self) -> arc_swap::Guard<Arc<FilterChain>> {
        self.chain.load()
    }

    pub fn store(&self, chain: FilterChain) {
        self.chain.store(Arc::new(chain));
    }

    /// The port and the host that it serves, if it is a service's.
    pub fn service_port(&self) -> Option<(u16, &str)> {
        service_port(&self.name)
    }
}

/// The port and the host in a chain's name, `inbound-vip|9080|http|reviews.default.svc.cluster.local`.
pub fn service_port(chain: &str) -> Option<(u16, &str)> {
    let mut parts = chain.split('|');
    let (Some("inbound-vip"), Some(port), Some(_), Some(host), None) = (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
    ) else {
        return None;
    };
    Some((port.parse().ok()?, host))
}

impl fmt::Debug for ChainSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChainSlot").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_named_by_its_service_and_port() {
        assert_eq!(service_port("inbound-vip|80|http|a.b"), Some((80, "a.b")));
        assert_eq!(service_port("inbound-vip|80|tcp|a.b"), Some((80, "a.b")));
        assert_eq!(service_port("direct-http"), None);
        assert_eq!(service_port("inbound-vip|x|http|a.b"), None);
    }
}
