//! Ends: of the waypoint, of peers that fall silent, of a thread.

#![allow(clippy::unwrap_used)]

mod drain;
mod silence;
mod threads;
