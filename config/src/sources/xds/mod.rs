//! Configuration by a live istiod: delta ADS and the certificate service.
//!
//! [`delta`] is the protocol's state and [`sequence`] the order in which updates take effect, both without
//! sockets; [`ads`] drives them over a stream; [`ca`] gets certificates; [`channel`] is the connection both
//! use, with the service account's token on every call.

pub mod ads;
pub mod ca;
pub mod channel;
pub mod delta;
pub mod sequence;
