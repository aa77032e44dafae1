//! Everything the control plane says, kept as one consistent snapshot.

pub mod dump;
pub mod model;
pub mod resource;
pub mod sources;
pub mod standalone;
pub mod store;
