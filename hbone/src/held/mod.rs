//! Memory that is held for a peer: by whom, and how much.

pub mod account;
pub mod holder;
