//! What a cluster would know: its objects, its services, and who owns what.

mod allocated_addresses;
pub mod cluster_state;
pub mod destination_rules;
pub mod directory;
pub mod entry_endpoints;
pub mod exports;
mod guards;
pub mod issuers;
pub mod mesh_endpoint;
pub mod mesh_service;
pub mod ownership;
pub mod peer_policies;
pub mod place;
pub(crate) mod policy_rules;
mod read;
mod registry;
pub mod taken;
pub mod telemetries;
pub(crate) mod virtual_services;
