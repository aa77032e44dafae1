//! Everything the control plane says, kept as one consistent snapshot.

mod honoured;
pub mod model;
pub mod resource;
pub mod standalone;
pub mod recorded;
pub mod store;
pub mod workloads;
