//! Rate limits: what a request counts for, and how much there is of it.

pub mod descriptor;
pub(crate) mod token_bucket;
