//! Role-based access control: what Istio's AuthorizationPolicy becomes.
//!
//! Work is split in two. What depends on the connection (identity, addresses, ports) is decided once per
//! connection by [`engine::Engine::bind`], which drops the policies that can't match on it any more;
//! [`engine::BoundEngine::decide`] tests what is left against each request.

pub mod action;
pub mod condition;
pub mod counters;
pub mod denial;
pub mod engine;
mod explain;
mod permission;
mod principal;
pub(crate) mod rules;
pub mod tally;
