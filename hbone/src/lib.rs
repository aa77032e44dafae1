//! Placeholder.
pub mod identity;
