//! Connections to an endpoint, by the HTTP that they speak.

pub(crate) mod expectation;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod informational;
