//! Kinds of Istio.

pub mod authorization_condition;
pub mod authorization_policy;
pub mod authorization_rule;
mod authorization_value;
mod custom_action;
pub mod destination_rule;
mod dry_run;
pub mod export_to;
pub(crate) mod host_name;
pub mod jwks;
pub mod peer_authentication;
pub mod request_authentication;
mod selector;
pub mod service_entry;
pub(crate) mod service_entry_schema;
mod service_entry_status;
pub mod telemetry;
pub mod virtual_service;
pub mod workload_address;
pub mod workload_entry;
