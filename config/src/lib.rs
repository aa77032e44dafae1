//! Everything the control plane says, kept as one consistent snapshot.

pub mod descriptors;
pub mod dump;
pub mod field_mask;
pub mod model;
pub mod protojson;
pub mod received;
pub mod recorded;
pub mod resource;
pub mod standalone;
pub mod store;
pub mod workloads;
pub mod xds;
