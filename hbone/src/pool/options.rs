//! Settings of a pool.

use std::net::IpAddr;
use std::time::Duration;

use crate::client::{ClientOptions, ServerFloods};
use crate::http2::Http2Options;
use crate::io::socket::SocketOptions;

/// Settings of a pool.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// A further connection is opened when all have this many tunnels; fewer where the server allows fewer.
    pub max_streams_per_connection: usize,
    /// Connections per hop; when all are full, callers wait for a place.
    pub max_connections_per_hop: usize,
    /// A connection without a tunnel for this long is closed (Istio's `hboneIdleTimeout`).
    pub idle_timeout: Duration,
    /// A dial that takes longer is given company, if somebody waits for it.
    pub slow_dial: Duration,
    /// For a place on a connection, dialled or shared.
    pub connect_timeout: Duration,
    /// From CONNECT to its answer.
    pub response_timeout: Duration,
    /// The address that connections come from.
    pub source: Option<IpAddr>,
    pub http2: Http2Options,
    pub socket: SocketOptions,
    /// What a server may send for nothing.
    pub floods: ServerFloods,
}

impl Default for PoolOptions {
    fn default() -> PoolOptions {
        let client = ClientOptions::default();
        PoolOptions {
            max_streams_per_connection: 64,
            max_connections_per_hop: 256,
            idle_timeout: Duration::from_secs(3600),
            slow_dial: Duration::from_secs(1),
            connect_timeout: client.connect_timeout,
            response_timeout: client.response_timeout,
            source: None,
            http2: client.http2,
            socket: client.socket,
            floods: client.floods,
        }
    }
}
