//! Messages as bytes.

pub(crate) mod packed;
pub(crate) mod stable_encoding;
