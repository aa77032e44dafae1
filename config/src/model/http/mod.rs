//! HTTP of the server side: what is done to every request of a chain.

pub mod codec;
pub mod connection_limits;
pub mod connection_manager;
pub mod forwarding;
pub mod path_normalization;
