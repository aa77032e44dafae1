//! The connection that a request or a TCP stream came on: the inner connection of a tunnel, or the
//! HBONE connection itself while its CONNECT requests are looked at.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use waypoint_hbone::held::holder::Holder;
use waypoint_hbone::identity::Identity;
use waypoint_hbone::tls::tls_info::TlsInfo;

use crate::stream::filter_state::FilterState;
use crate::stream::peer::Peer;
use crate::stream::serial_id::SerialId;

/// What is known about a downstream connection. It never changes once requests run on it.
pub struct Connection {
    /// The client: the TCP peer of the tunnel, never a header of the CONNECT.
    pub source: SocketAddr,
    /// Where the client wanted to go: the CONNECT authority as an address.
    pub destination: SocketAddr,
    /// The client's identity in mutual TLS.
    pub peer: Option<Identity>,
    /// Our own identity in mutual TLS.
    pub local: Option<Identity>,
    /// The TLS that both are of.
    pub tls: Option<Arc<TlsInfo>>,
    /// The client's workload, if the mesh knows it.
    pub downstream_peer: Option<Arc<Peer>>,
    /// Whom the client asks for in the TLS inside the tunnel.
    pub server_name: ServerName,
    /// Names of the listener and of the filter chain that serve it.
    pub listener: Option<&'static str>,
    pub filter_chain: Option<Arc<str>>,
    pub id: SerialId,
    pub filter_state: FilterState,
    /// What is held for it, where that is kept account of.
    pub holder: Option<Arc<Holder>>,
    pub start: Instant,
    bound: Mutex<Vec<(BindKey, Arc<dyn Any + Send + Sync>)>>,
}

/// The server name (SNI) of the TLS handshake inside a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServerName {
    /// Nobody has looked, or what was there couldn't be read.
    #[default]
    Unread,
    /// There is no TLS, or its hello has no name.
    Absent,
    /// In lower case.
    Name(Arc<str>),
}

impl ServerName {
    pub fn known(&self) -> Option<&str> {
        match self {
            ServerName::Name(name) => Some(name),
            ServerName::Unread | ServerName::Absent => None,
        }
    }
}

/// Identifies a filter instance whose work can be done once per connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindKey(u64);

impl BindKey {
    /// A key that no other filter instance has.
    pub fn unique() -> BindKey {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        BindKey(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Filter instances of replaced chain versions leave their results behind; past this many all are dropped.
const MAX_BOUND: usize = 32;

impl Connection {
    pub fn new(source: SocketAddr, destination: SocketAddr, start: Instant) -> Connection {
        Connection {
            source,
            destination,
            peer: None,
            local: None,
            tls: None,
            downstream_peer: None,
            server_name: ServerName::Unread,
            listener: None,
            filter_chain: None,
            id: SerialId::default(),
            filter_state: FilterState::default(),
            holder: None,
            start,
            bound: Mutex::default(),
        }
    }

    /// Whether it was ended because its memory was needed.
    pub fn is_evicted(&self) -> bool {
        self.holder
            .as_ref()
            .is_some_and(|holder| holder.is_evicted())
    }

    /// Returns when it is to end because its memory is needed.
    pub async fn evicted(&self) {
        match &self.holder {
            Some(holder) => holder.evicted().await,
            None => std::future::pending().await,
        }
    }

    /// What a filter instance computed for this connection, computed now if it wasn't yet.
    /// The mutex is this connection's own and held for a short list's search only.
    pub fn bound<T: Send + Sync + 'static>(
        &self,
        key: BindKey,
        bind: impl FnOnce() -> T,
    ) -> Arc<T> {
        let found = self.lookup(key);
        if let Some(Ok(bound)) = found.map(Arc::downcast::<T>) {
            return bound;
        }
        let bound = Arc::new(bind());
        let mut list = self.bound.lock();
        if list.len() >= MAX_BOUND {
            list.clear();
        }
        list.push((key, bound.clone()));
        bound
    }

    fn lookup(&self, key: BindKey) -> Option<Arc<dyn Any + Send + Sync>> {
        let list = self.bound.lock();
        list.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_once_per_connection_and_filter_and_forgets_past_the_bound() {
        let address: SocketAddr = ([127, 0, 0, 1], 80).into();
        let connection = Connection::new(address, address, Instant::now());
        let key = BindKey::unique();
        assert_eq!(*connection.bound(key, || 1), 1);
        assert_eq!(*connection.bound(key, || 2), 1);
        for _ in 0..MAX_BOUND {
            connection.bound(BindKey::unique(), || 0);
        }
        assert_eq!(*connection.bound(key, || 3), 3);
    }
}
