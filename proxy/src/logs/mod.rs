//! What becomes of the process's own lines on the way from who says them to who writes them.

pub(crate) mod access_file;
pub mod levels;
pub mod losses;
pub(crate) mod program;
pub(crate) mod throttle;
pub(crate) mod witness;
