//! How a waypoint lives and ends.

pub(crate) mod threads;
