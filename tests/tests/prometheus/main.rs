//! A real Prometheus scrapes waypoints under load: dashboards have data, alerts fire. `make test-prometheus` runs these;
//! `WAYPOINT_PROMETHEUS` is the folder of its programs.

#![allow(clippy::unwrap_used)]

mod alerts;
mod dashboard;
mod istio;
mod scene;
mod troubles;
