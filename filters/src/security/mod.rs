//! Who may pass: what tokens prove, what policies say, and what is asked of others.
//!
//! The filters of these names (`http/`, `network/`) decide by it, and so do commands that explain a verdict.

pub(crate) mod ext_authz;
pub mod jwt;
pub mod rbac;
