//! The snapshot: from a tunnel's destination to the filter chain that serves it.
//!
//! Published atomically and never changed; it is rebuilt only when the set of listeners, addresses or
//! chains changes. What changes inside a chain or a cluster goes through their slots.

use std::sync::Arc;
use std::time::Duration;

use crate::model::chain::ChainSlot;
use crate::model::connection_manager::HttpConnectionManager;
use crate::model::filter_chain_matcher::FilterChainMatcher;

/// Everything that the data path looks up by address.
pub struct Snapshot {
    pub connect_terminate: Arc<ConnectTerminate>,
    pub main: Arc<MainListener>,
    /// The `connect_originate` path: what is asked of HBONE hops.
    pub connect_originate: ConnectOriginate,
}

/// `connect_terminate`: the HBONE server.
pub struct ConnectTerminate {
    /// Its filters run on every CONNECT.
    pub manager: Arc<HttpConnectionManager>,
    pub max_concurrent_streams: u32,
    /// PING interval and timeout.
    pub keepalive: Option<(Duration, Duration)>,
    /// Trust domains that a client's identity may have.
    pub trust_domains: Vec<String>,
}

/// `main_internal`: what runs inside tunnels.
pub struct MainListener {
    pub matcher: FilterChainMatcher,
    pub chains: std::collections::HashMap<Arc<str>, Arc<ChainSlot>>,
    /// Access logs of connections for which there is no chain.
    pub recorders: Box<[Arc<dyn waypoint_filters::recorder::Recorder>]>,
}

/// `connect_originate`: tunnels to ztunnels.
#[derive(Clone, Debug)]
pub struct ConnectOriginate {
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
    /// Trust domains that a server's identity may have.
    pub trust_domains: Vec<String>,
}
