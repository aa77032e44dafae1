//! A waypoint on manifests: what they do, what is told of them, and changes while traffic runs.

#![allow(clippy::unwrap_used)]

mod asked;
mod bookinfo;
mod consumer_routes;
mod credentials;
mod destination_rules;
mod effects;
mod grpc_routes;
mod in_force;
mod live_changes;
mod machines;
mod proxy_settings;
mod reference_grants;
mod service_entries;
mod sessions;
mod sidecars;
mod stream_routes;
mod telemetry;
mod tokens;
mod tokens_over_tls;
mod told;
mod traffic_distribution;
mod virtual_services;
