//! A real istiod configures and certifies the waypoint's pod. `make test-istiod` runs these; `WAYPOINT_ISTIOD` is the binary.

#![allow(clippy::unwrap_used)]

mod changes;
mod load;
mod pod;
mod refusals;
mod scenarios;
