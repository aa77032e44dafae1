//! A waypoint on manifests: what they do, what is told of them, and changes while traffic runs.

#![allow(clippy::unwrap_used)]

mod bookinfo;
mod effects;
mod in_force;
mod live_changes;
mod told;
