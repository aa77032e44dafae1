//! External authorization: whether a connection or a request may pass is asked of a service, over gRPC or HTTP.
//!
//! The two filters (`http/ext_authz.rs`, `network/ext_authz.rs`) are what Envoy calls by that name. What both are made of is
//! here: whom to ask and how ([`service::grpc_service`], [`service::http_service`]), what is told ([`check::check_request`], [`told_headers`]) and what
//! an answer says ([`check::check_response`], [`verdict`]) and changes ([`verdict::changes`]).

pub(crate) mod check;
pub(crate) mod counters;
pub(crate) mod enabled;
pub(crate) mod header_names;
pub(crate) mod of_route;
pub(crate) mod request_body;
pub(crate) mod service;
pub(crate) mod told_headers;
pub(crate) mod verdict;
