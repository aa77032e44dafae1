//! Kinds of Istio.

pub mod authorization_policy;
pub mod service_entry;
pub(crate) mod service_entry_schema;
