//! Mutual TLS with SPIFFE identities, and CONNECT tunnels over HTTP/2: Istio's HBONE.
//!
//! This crate alone names `rustls` and `h2`. It knows nothing of xDS, routes or gRPC, and uses no other crate of the
//! workspace. A server [`accept`](server::accept)s connections and hands each CONNECT out as a
//! [`TunnelRequest`](server::TunnelRequest); a [`TunnelPool`](pool::TunnelPool) opens tunnels to others; both end in
//! a [`TunnelStream`](stream::TunnelStream), which passes `Bytes` on without copying them.

pub mod authority;
pub mod certificate;
pub mod dev_ca;
pub mod identity;
pub mod tls;
pub mod reset;
