//! The immutable model that configuration is compiled to, and that the data path reads.
//!
//! Objects that change on their own are slots ([`cluster::ClusterSlot`], [`chain::ChainSlot`]): a route
//! holds the slot of its cluster, so an endpoint update touches one pointer and rebuilds nothing.

pub mod balance;
pub mod chain;
pub mod circuit_breakers;
pub mod cluster;
pub mod codec;
pub(crate) mod config_source;
pub mod connection_manager;
pub mod discovered;
pub mod dns;
pub(crate) mod duration;
pub mod endpoint;
pub mod endpoint_set;
pub mod filter_chain_matcher;
pub mod forward;
pub(crate) mod hbone_tls;
pub mod header_changes;
pub mod inspection;
pub(crate) mod ip_matcher;
pub mod listener;
pub(crate) mod matcher_tables;
pub mod originate;
pub mod path_normalization;
pub mod path_rewrite;
pub mod retry_policy;
pub mod route;
pub(crate) mod route_context;
pub mod route_match;
pub mod snapshot;
pub mod tcp_proxy;
pub(crate) mod transport_socket;
pub mod upstream_protocol;
pub mod weighted;
