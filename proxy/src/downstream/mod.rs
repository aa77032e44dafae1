//! The client's side: connections before they have tunnels, the bytes of inner HTTP connections before hyper reads
//! them, answers that break off, and peers that flood.

pub(crate) mod answering;
pub(crate) mod connection;
pub(crate) mod expectation;
pub(crate) mod farewell;
pub(crate) mod floods;
pub(crate) mod framing;
pub(crate) mod head_clock;
pub(crate) mod newcomers;
pub(crate) mod request_head_bytes;
pub(crate) mod request_reader;
mod turns;
pub(crate) mod wire_count;
