//! Peers that take what they can, and what a second client sees meanwhile.

#![allow(clippy::unwrap_used)]

mod attacks;
mod crowds;
mod descriptors;
mod floods;
mod handshakes;
mod held;
mod limits;
mod logs_never_stop;
mod memory;
mod probes;
mod scrapes;
