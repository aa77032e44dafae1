//! Who is who, and who may do what: certificates, identities, AuthorizationPolicy, and ways around.

#![allow(clippy::unwrap_used)]

mod authorization;
mod authorization_targets;
mod bad_input;
mod identity;
