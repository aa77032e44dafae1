//! Real Envoy beside, before and behind the waypoint. `make test-envoy` runs these; `WAYPOINT_ENVOY` is the binary.

#![allow(clippy::unwrap_used)]

mod beside;
mod clocks;
mod connection_ends;
mod connection_pools;
mod consistent_hashing;
mod cors;
mod dynamic_hosts;
mod expressions;
mod ext_authz;
mod ext_authz_draws;
mod extended_connect;
mod faults;
mod formats;
mod grpc_web;
mod guards;
mod health_checks;
mod istioctl;
mod istioctl_log;
mod log_services;
mod manager_draws;
mod mirrors;
mod neighbours;
mod outlier_detection;
mod panics;
mod policies;
mod proxy_protocol;
mod rate_limits;
mod retries;
mod retry_priorities;
mod route_draws;
mod routes;
mod same_requests;
mod server_names;
mod sessions;
mod stream_limits;
mod tls_fields;
mod tls_servers;
mod token_cases;
mod token_constraints;
mod token_rules;
mod tokens;
mod traces;
mod wire_bytes;
