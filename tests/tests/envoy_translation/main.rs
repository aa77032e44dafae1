//! What the translator and the formats make, beside real Envoy: `make test-envoy` runs these;
//! `WAYPOINT_ENVOY` is the binary.

#![allow(clippy::unwrap_used)]

mod formats;
mod routes;
