//! Peers that take what they can, and what a second client sees meanwhile.

#![allow(clippy::unwrap_used)]

mod attacks;
mod descriptors;
mod floods;
mod handshakes;
mod limits;
mod logs_never_stop;
mod memory;
mod probes;
