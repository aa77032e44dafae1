//! `filter_chain_matcher`: from destination address, port and protocol to the name of a filter chain.
//!
//! istiod sends xDS unified matchers; this is the subset of inputs that it uses, as typed trees. The same
//! range may stand several times (services without an address are all `0.0.0.0/32`): the first whose
//! port map knows the port wins.

use std::sync::Arc;

use crate::model::chain::ChainSlot;

/// What is known about a connection before its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct ChainInput<'a> {
    pub destination: std::net::SocketAddr,
    /// `io.istio.connect_authority`.
    pub authority: &'a str,
    /// `None`: not sniffed (yet).
    pub protocol: Option<ApplicationProtocol>,
}

/// What the first bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApplicationProtocol {
    Http10,
    Http11,
    H2c,
    /// Anything else, or a server that speaks first.
    Unknown,
}

/// What the matcher says.
pub enum ChainChoice {
    Chain(Arc<ChainSlot>),
    /// The answer depends on the first bytes, which have to be looked at.
    NeedsProtocol,
    None,
}
