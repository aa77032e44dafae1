//! The peers of the stories in `tests/`: a mesh of scripted pods and ztunnels around the running product.
//!
//! The ztunnels speak HBONE with h2 and rustls themselves, not with the product's own crate, so that a
//! misunderstanding in it isn't shared by both sides.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod app;
pub mod attack;
pub mod backend;
pub mod balancing;
pub mod broken_answers;
pub mod browser;
pub mod circuit_breakers;
pub mod clocks;
pub mod collector;
pub mod connection_ends;
pub mod control_plane;
pub mod discovery;
pub mod envoy;
pub mod envoy_ads;
pub mod envoy_secrets;
pub mod ext_authz;
pub mod ext_authz_resources;
pub mod extended_connect;
pub mod grpc_web;
pub mod hbone_stream;
pub mod health_checks;
pub mod istioctl;
pub mod istiod;
pub mod keepalives;
pub mod key_server;
pub mod late_heads;
pub mod literal_h2;
pub mod load;
pub mod log_collector;
pub mod logs;
pub mod managers;
pub mod mesh;
pub mod mirrors;
pub mod name_server;
pub mod pace;
pub mod pending;
pub mod pod_ztunnel;
pub mod program;
pub mod prometheus;
pub mod rate_limits;
pub mod recorded_telemetry;
pub mod request_authentication;
pub mod route_changes;
pub mod scenario;
pub mod scripted_ca;
pub mod seeds;
pub mod server_names;
pub mod some_policies;
pub mod stream_limits;
pub mod telemetry;
pub mod tls;
pub mod tls_server;
pub mod tokens;
pub mod upstream_tls;
pub mod versions;
pub mod wait;
pub mod wire;
pub mod wire_app;
pub mod wire_bytes;
pub mod ztunnel;

pub use app::{App, Seen};
pub use control_plane::ControlPlane;
pub use mesh::{Mesh, Waypoint};
pub use program::Program;
pub use wire_app::{Recorder, Script, Then};
pub use ztunnel::{Answer, Ztunnel};
