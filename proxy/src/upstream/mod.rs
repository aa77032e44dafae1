//! The way up: connections to endpoints, plain or through HBONE tunnels, and the pools that keep them.

pub(crate) mod agreed_upgrade;
pub(crate) mod body;
pub(crate) mod callout;
pub(crate) mod dial;
pub(crate) mod error;
pub(crate) mod exchange;
pub(crate) mod expectation;
pub(crate) mod h1;
pub(crate) mod h1_pool;
pub(crate) mod h2;
pub(crate) mod held_body;
pub(crate) mod io;
pub(crate) mod lifetimes;
pub(crate) mod limits;
pub(crate) mod message_form;
pub(crate) mod open;
pub(crate) mod original_dst;
pub(crate) mod place;
pub(crate) mod pools;
pub(crate) mod reach;
pub(crate) mod read_ahead;
pub(crate) mod timed_body;
pub(crate) mod upload;
