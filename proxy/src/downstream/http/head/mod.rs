//! Heads of requests: their bytes as they come, the time they may take, and the one form that policy and routes see.
//! Those of answers take the last step back (`prepare::finish`).

pub(crate) mod bytes;
pub(crate) mod clock;
pub(crate) mod forwarded;
pub(crate) mod framing;
pub(crate) mod path_normalization;
pub(crate) mod prepare;
