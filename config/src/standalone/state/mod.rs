//! What a cluster would know: its objects, its services, and who owns what.

pub mod cluster_state;
pub mod mesh_service;
pub mod ownership;
