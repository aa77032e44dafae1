//! The waypoint as a pod's container: what istiod's template gives it, what istiod wants to know of it, and the
//! commands that people and tools exec in it.
//!
//! One process stands for Istio's agent and Envoy: `waypoint proxy waypoint …` takes the template's
//! arguments and environment as they are.

mod addresses;
pub(crate) mod agent;
pub(crate) mod arguments;
mod downward;
pub(crate) mod environment;
mod go_duration;
mod istiod;
mod local_http;
mod node;
mod ports;
mod proxy_config;
pub(crate) mod request;
mod variables;
pub(crate) mod version;
pub(crate) mod wait;
mod without_effect;
