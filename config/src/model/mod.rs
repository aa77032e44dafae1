//! The immutable model that configuration is compiled to, and that the data path reads.
//!
//! Objects that change on their own are slots ([`cluster::ClusterSlot`], [`chain::ChainSlot`]): a route
//! holds the slot of its cluster, so an endpoint update touches one pointer and rebuilds nothing.

pub mod chain;
pub mod cluster;
pub mod connection_manager;
pub(crate) mod discovered;
pub(crate) mod duration;
pub mod endpoint;
pub mod filter_chain_matcher;
pub mod forward;
pub mod header_changes;
pub(crate) mod ip_matcher;
pub mod listener;
pub mod path_rewrite;
pub mod retry_policy;
pub mod route;
pub mod route_match;
pub mod snapshot;
pub mod tcp_proxy;
pub(crate) mod transport_socket;
