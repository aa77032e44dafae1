//! The waypoint's own identity: its certificate, from whichever authority, what it trusts, and what was revoked.

pub(crate) mod certificates;
pub(crate) mod crl;
pub(crate) mod seconds_until;
pub(crate) mod workload_ca;
