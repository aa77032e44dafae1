//! X.509: certificates, requests for them, revocation, and an authority for development.

pub mod certificate;
pub mod certificate_fields;
pub mod certificate_request;
pub mod dev_ca;
pub mod revocation;
pub(crate) mod trust;
pub mod x509;
