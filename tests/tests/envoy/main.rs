//! Real Envoy beside, before and behind the waypoint. `make test-envoy` runs these; `WAYPOINT_ENVOY` is the binary.

#![allow(clippy::unwrap_used)]

mod beside;
mod formats;
mod mirrors;
mod neighbours;
mod routes;
mod tls_fields;
mod wire_bytes;
