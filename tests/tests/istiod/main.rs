//! A real istiod configures and certifies the waypoint's pod. `make test-istiod` runs these; `WAYPOINT_ISTIOD` is the binary.

#![allow(clippy::unwrap_used)]

mod backends;
mod balancing;
mod changes;
mod istioctl;
mod load;
mod machines;
mod places;
mod pod;
mod refusals;
mod scenarios;
mod secrets;
mod tokens;
