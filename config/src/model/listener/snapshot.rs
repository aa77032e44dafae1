//! The snapshot: from a tunnel's destination to the filter chain that serves it.
//!
//! Published atomically and never changed; it is rebuilt only when the set of listeners, addresses or
//! chains changes. What changes inside a chain or a cluster goes through their slots.

use std::sync::Arc;
use std::time::Duration;

use crate::model::http::connection_manager::HttpConnectionManager;
use crate::model::listener::chain::ChainSlot;
use crate::model::listener::filter_chain_matcher::{
    ApplicationProtocol, ChainChoice, ChainInput, FilterChainMatcher,
};
use crate::model::listener::inspection::Inspection;

/// Everything that the data path looks up by address.
#[derive(Debug)]
pub struct Snapshot {
    pub connect_terminate: Arc<ConnectTerminate>,
    pub main: Arc<MainListener>,
}

/// `connect_terminate`: the HBONE server.
#[derive(Debug)]
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
#[derive(Debug)]
pub struct MainListener {
    pub matcher: FilterChainMatcher,
    pub inspection: Inspection,
    pub chains: std::collections::HashMap<Arc<str>, Arc<ChainSlot>>,
    /// Access logs of connections for which there is no chain.
    pub recorders: Box<[Arc<dyn waypoint_filters::stream::recorder::Recorder>]>,
}

impl MainListener {
    /// The chain for a connection. Ports that aren't inspected never wait for first bytes.
    pub fn choose(&self, input: ChainInput<'_>) -> ChainChoice {
        let protocol = match input.protocol {
            None if !self.inspection.looks_at(input.destination.port()) => {
                Some(ApplicationProtocol::Unknown)
            }
            protocol => protocol,
        };
        self.matcher.lookup(ChainInput { protocol, ..input })
    }
}
