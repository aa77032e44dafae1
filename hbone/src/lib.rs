//! Mutual TLS with SPIFFE identities, and CONNECT tunnels over HTTP/2: Istio's HBONE.
//!
//! This crate alone names `rustls` and `h2`. It knows nothing of xDS, routes or gRPC, and uses no other crate of the
//! workspace. A server [`accept`](server::accept)s connections and hands each CONNECT out as a
//! [`TunnelRequest`](server::TunnelRequest); a [`TunnelPool`](pool::TunnelPool) opens tunnels to others; both end in
//! a [`TunnelStream`](stream::TunnelStream), which passes `Bytes` on without copying them.

pub mod account;
pub mod allowance;
pub mod authority;
pub mod certificate;
pub mod certificate_fields;
pub mod certificate_request;
pub mod client;
pub mod connect_error;
pub mod connection;
pub mod control_plane;
pub mod copy;
pub mod dev_ca;
mod frame_budget;
mod frame_head;
pub mod frame_watch;
pub mod holder;
pub mod http2;
pub mod identity;
mod open_streams;
pub mod pool;
pub mod reset;
pub mod revocation;
pub mod server;
pub mod socket;
mod standing;
pub mod stream;
mod stream_budget;
pub mod tls;
pub mod tls_failure;
pub mod tls_info;
mod trust;
mod wire;
pub mod x509;

/// Where ztunnels and waypoints take tunnels.
pub const PORT: u16 = 15008;
