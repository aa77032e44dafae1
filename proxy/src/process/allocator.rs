//! The allocator of the process, and what it says it has in use.

pub use tikv_jemallocator::Jemalloc;

/// The pages in which the allocator has anything that it has given out and not got back, and what it needs itself.
/// Only where [`Jemalloc`] is the process's allocator does that say anything.
pub fn in_use() -> Option<u64> {
    // Its numbers stand still until they are asked for anew.
    tikv_jemalloc_ctl::epoch::advance().ok()?;
    let active = tikv_jemalloc_ctl::stats::active::read().ok()?;
    let metadata = tikv_jemalloc_ctl::stats::metadata::read().ok()?;
    u64::try_from(active + metadata).ok()
}
