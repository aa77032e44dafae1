//! Messages as bytes.

pub(crate) mod packed;
pub(super) mod regex;
pub(crate) mod stable_encoding;
pub(super) mod tls_context;
