//! A waypoint under an istiod, and what its admin port says of it.

#![allow(clippy::unwrap_used)]

mod admin;
mod config_dump;
mod control_plane;
mod many_services;
mod metrics;
mod profiles;
mod sequence;
mod trust;
mod views;
