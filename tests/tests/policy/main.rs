//! Who is who, and who may do what: certificates, identities, AuthorizationPolicy, and ways around.

#![allow(clippy::unwrap_used)]

mod advisories;
mod authorization;
mod authorization_targets;
mod bad_input;
mod denials;
mod dry_run;
mod explain;
mod ext_authz;
mod ext_authz_bodies;
mod ext_authz_chains;
mod ext_authz_http;
mod ext_authz_tcp;
mod fetched_keys;
mod identity;
mod layered;
mod server_names;
mod spellings;
mod tokens;
