//! Standalone mode: Kubernetes manifests in, the resources that istiod would send out.

pub mod cluster_state;
pub mod kinds;
pub mod manifest;
pub mod mesh_service;
pub mod ownership;
pub mod problem;
pub mod yaml;
