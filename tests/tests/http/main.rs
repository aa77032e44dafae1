//! What becomes of a request and its answer: protocols, heads, bodies, routes, time limits, and what is told of them.

#![allow(clippy::unwrap_used)]

mod back_pressure;
mod borders;
mod clocks;
mod fields;
mod http_path;
mod one_bad_value;
mod paths;
mod protocols;
mod recorded;
mod routing;
mod smuggling;
mod telemetry;
mod tls_fields;
mod wire_bytes;
