//! The immutable model that configuration is compiled to, and that the data path reads.
//!
//! Objects that change on their own are slots ([`cluster::ClusterSlot`], [`chain::ChainSlot`]): a route
//! holds the slot of its cluster, so an endpoint update touches one pointer and rebuilds nothing.

pub mod active_health;
pub mod balance;
pub mod cluster;
pub(crate) mod config_source;
pub mod discovered;
pub(crate) mod duration;
pub mod endpoint;
pub mod endpoint_check;
pub mod header_case;
pub mod http;
pub(crate) mod http2_keepalive;
pub mod listener;
pub mod outlier;
pub mod route;
pub mod stream_limits;
pub mod weighted;
