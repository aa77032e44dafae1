//! Where requests and TCP streams go: endpoints, names, limits of clusters, connections, and peers that answer wrongly.

#![allow(clippy::unwrap_used)]

mod bad_upstream;
mod circuit_breakers;
mod connection_limits_in_time;
mod consistent_hashing;
mod dns;
mod dynamic_hosts;
mod health_checks;
mod hedging;
mod http2_settings;
mod localities;
mod mirrors;
mod outlier_detection;
mod slow_start;
mod tcp_path;
mod tls;
mod tls_files;
mod tls_secrets;
mod transport_sockets;
mod upstream_reuse;
