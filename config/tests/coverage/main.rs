//! Whatever can be said is honoured, harmless, left out and told of, or refused by name: the tables held
//! against the API's descriptors, against what a real istiod sent, and against mutations of that.
#![allow(clippy::unwrap_used)]

mod cost;
mod descriptors;
mod document;
mod meaning;
mod pieces;
#[path = "../process/mod.rs"]
mod process;
mod refusal;
mod sites;
mod wire;
