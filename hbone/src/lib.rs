//! Mutual TLS with SPIFFE identities, and CONNECT tunnels over HTTP/2: Istio's HBONE.
//!
//! This crate alone names `rustls` and `h2`. It knows nothing of xDS, routes or gRPC, and uses no other crate of the
//! workspace. A server [`accept`](server::accept)s connections and hands each CONNECT out as a
//! [`TunnelRequest`](server::TunnelRequest); a [`TunnelPool`](pool::TunnelPool) opens tunnels to others; both end in
//! a [`TunnelStream`](stream::TunnelStream), which passes `Bytes` on without copying them.
//! [`messages`] are requests and answers over HTTP/2, inside of tunnels and to endpoints.

pub mod authority;
pub mod certificates;
pub mod client;
pub mod frames;
pub mod held;
pub mod http2;
pub mod identity;
pub mod io;
pub mod messages;
pub mod pool;
pub mod server;
pub mod tls;
pub mod tunnel;

/// Where ztunnels and waypoints take tunnels.
pub const PORT: u16 = 15008;
