//! The keys that signatures are checked with.

pub mod key;
pub mod key_set;
