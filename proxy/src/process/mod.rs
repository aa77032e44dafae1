//! What the process has once, for all that runs in it.

pub mod allocator;
pub(crate) mod descriptor_limit;
pub(crate) mod listen;
pub(crate) mod memory;
pub(crate) mod open_files;
pub(crate) mod places;
pub(crate) mod vitals;
