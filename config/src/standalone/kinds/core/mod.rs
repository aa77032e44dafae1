//! Kinds of Kubernetes itself.

pub mod config_map;
pub mod config_map_fields;
pub mod credential;
pub mod custom_tag;
pub mod endpoint_slice;
pub mod endpoints;
pub mod extension_provider;
pub mod pod;
pub mod port;
pub mod protocol;
pub mod proxy_config;
pub mod service;
pub(crate) mod service_outside;
pub mod telemetry_provider;
pub mod tls_defaults;
