//! The way up: connections to endpoints, plain or through HBONE tunnels, with TLS inside where it is configured, and the pools that keep them.

pub(crate) mod body;
pub(crate) mod by_session;
pub(crate) mod callout;
pub(crate) mod connection;
pub(crate) mod dial;
pub(crate) mod dynamic;
pub(crate) mod error;
pub(crate) mod exchange;
pub(crate) mod health;
pub(crate) mod judge;
pub(crate) mod limits;
pub(crate) mod original_dst;
pub(crate) mod outside;
pub(crate) mod pools;
pub(crate) mod reach;
