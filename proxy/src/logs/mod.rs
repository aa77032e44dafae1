//! What becomes of the process's own lines on the way from who says them to who writes them.

pub mod losses;
pub(crate) mod throttle;
