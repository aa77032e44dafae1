//! What an upstream says before its answer (RFC 9110 §15.2), on its way to the client: 100, 102, 103 and 104, as Envoy passes them on.
//!
//! Of attempts beside each other, the first one that speaks is heard. What is too much for a client that doesn't read is dropped: it
//! is no part of the answer.

mod heads;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod relay;
