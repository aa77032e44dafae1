//! Kinds of the Gateway API.

pub mod backend_object;
pub mod backend_tls_policy;
pub mod backend_traffic_policy;
pub mod gateway;
pub(crate) mod gateway_schema;
pub mod grpc_route;
pub mod http_route;
pub mod http_route_filter;
pub mod http_route_match;
pub(crate) mod http_route_others;
pub(crate) mod http_route_schema;
pub mod policy_target;
pub mod reference_grant;
pub mod session_persistence;
pub mod stream_route;
