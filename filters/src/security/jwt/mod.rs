//! JSON Web Tokens: how one is read, whose keys prove it, and what it is good for.
//!
//! Mirrors Envoy's `jwt_authn` (its `jwt_verify_lib` in [`token`], [`keys`] and [`failure`]). Everything that decides takes
//! time as an argument; only [`provider::remote`] waits for anything, and nothing here knows a request's life.

pub mod algorithm;
mod base64url;
pub mod examination;
mod explain;
pub mod failure;
pub mod keys;
pub mod provider;
pub mod requirement;
pub mod token;
pub mod trusted;
