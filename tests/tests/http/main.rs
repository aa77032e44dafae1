//! What becomes of a request and its answer: protocols, heads, bodies, routes, time limits, and what is told of them.

#![allow(clippy::unwrap_used)]

mod back_pressure;
mod borders;
mod clocks;
mod connection_ends;
mod cors;
mod counts;
mod extended_connect;
mod faults;
mod fields;
mod http_path;
mod one_bad_value;
mod overrides;
mod paths;
mod protocols;
mod rate_limits;
mod recorded;
mod routing;
mod smuggling;
mod stream_limits;
mod telemetry;
mod tls_fields;
mod traces;
mod wire_bytes;
