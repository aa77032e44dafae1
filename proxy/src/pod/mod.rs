//! The waypoint as a pod's container: what istiod's template gives it, and what istiod wants to know of it.
//!
//! One process stands for Istio's agent and Envoy: `waypoint proxy waypoint …` takes the template's
//! arguments and environment as they are.

pub(crate) mod agent;
pub(crate) mod environment;
pub(crate) mod node;
