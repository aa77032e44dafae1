//! The Kubernetes kinds that are read, one file each. The table of all kinds is `state/registry.rs`.
//!
//! All served versions of a kind are one kind. Security objects and routes deny unknown fields: what isn't known
//! can't be honoured.

pub mod core;
pub mod gateway_api;
pub mod istio;
pub mod known_fields;
mod refusal;
pub mod target_ref;
pub mod traffic_policy;
