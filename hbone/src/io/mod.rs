//! Byte streams below and beside HTTP/2.

pub mod read_ahead;
pub mod reset;
pub mod socket;
pub mod wire;
