//! Where requests and TCP streams go: endpoints, names, limits of clusters, connections, and peers that answer wrongly.

#![allow(clippy::unwrap_used)]

mod bad_upstream;
mod circuit_breakers;
mod connection_limits_in_time;
mod dns;
mod localities;
mod mirrors;
mod tcp_path;
mod upstream_reuse;
