//! Ends: of the waypoint, of peers that fall silent, of a thread.

#![allow(clippy::unwrap_used)]

mod drain;
mod rolling_replacement;
mod silence;
mod threads;
