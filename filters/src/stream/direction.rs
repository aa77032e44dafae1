//! The two ways through the proxy.

/// Which way bytes and messages go, and which counters of their stream they add to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Request,
    /// To the client.
    Response,
}
