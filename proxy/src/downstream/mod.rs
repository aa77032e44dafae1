//! The client's side of an inner HTTP connection, below hyper: the bytes, before hyper reads them.

pub(crate) mod expectation;
pub(crate) mod framing;
pub(crate) mod request_head_bytes;
pub(crate) mod request_reader;
