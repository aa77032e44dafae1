//! The waypoint as a pod's container: what istiod's template gives it, what istiod wants to know of it, and the
//! commands that people and tools exec in it.
//!
//! One process stands for Istio's agent and Envoy: `waypoint proxy waypoint …` takes the template's
//! arguments and environment as they are.

pub(crate) mod agent;
pub(crate) mod commands;
pub(crate) mod environment;
mod node;
