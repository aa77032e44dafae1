//! Kinds of Kubernetes itself.

pub mod config_map;
pub mod config_map_fields;
pub mod endpoint_slice;
pub mod endpoints;
pub mod pod;
pub mod port;
pub mod service;
pub(crate) mod service_outside;
