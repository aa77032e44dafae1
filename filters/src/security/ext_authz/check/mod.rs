//! What a service is asked, and what it answers, as `envoy.service.auth.v3` has it.

pub(crate) mod check_request;
pub(crate) mod check_response;
