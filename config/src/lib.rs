//! Everything the control plane says, kept as one consistent snapshot.

pub mod model;
pub mod resource;
pub mod standalone;
