//! How a waypoint lives and ends.

pub(crate) mod drain;
pub(crate) mod readiness;
