//! Kinds of the Gateway API.

pub mod backend_object;
pub mod gateway;
pub(crate) mod gateway_schema;
pub mod http_route;
pub mod http_route_filter;
pub mod http_route_match;
pub(crate) mod http_route_others;
pub(crate) mod http_route_schema;
