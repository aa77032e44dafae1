//! The allocator of the process: what it says it has in use, and the way to make it give back what it has free.
//!
//! jemalloc keeps pages that were freed for some ten seconds, in case they are needed again. The kernel counts them as the
//! process's: after a burst the process would be killed for memory that nobody uses.

use tikv_jemalloc_ctl::{Access, AsName, profiling};
pub use tikv_jemallocator::Jemalloc;

/// What the process can ask its allocator.
#[derive(Clone, Copy, Debug)]
pub struct Allocator {
    /// Bytes that are in use, if that is known.
    pub in_use: fn() -> Option<u64>,
    /// Gives free pages back to the kernel now.
    pub give_back: fn(),
    /// Whether it can record what allocates.
    pub can_record: fn() -> bool,
}

impl Allocator {
    /// For a process whose allocator is [`Jemalloc`].
    pub const JEMALLOC: Allocator = Allocator {
        in_use,
        give_back,
        can_record: || profiling::prof::read().unwrap_or(false),
    };

    /// One that tells nothing and keeps what it has: what is resident is in use.
    pub const UNKNOWN: Allocator = Allocator {
        in_use: || None,
        give_back: || {},
        can_record: || false,
    };
}

/// The pages in which the allocator has anything that it has given out and not got back, and what it needs itself.
fn in_use() -> Option<u64> {
    // Its numbers stand still until they are asked for anew.
    tikv_jemalloc_ctl::epoch::advance().ok()?;
    let active = tikv_jemalloc_ctl::stats::active::read().ok()?;
    let metadata = tikv_jemalloc_ctl::stats::metadata::read().ok()?;
    u64::try_from(active + metadata).ok()
}

/// A time of nothing before free pages are given back has an arena give back those that it has; then its time is as
/// before. An arena that nobody uses has none, and says so.
fn give_back() {
    let Ok(arenas) = tikv_jemalloc_ctl::arenas::narenas::read() else {
        return;
    };
    for arena in 0..arenas {
        let name = format!("arena.{arena}.dirty_decay_ms\0");
        let time = name.name();
        if let Ok(before) = Access::<isize>::update(time, 0) {
            let _ = time.write(before);
        }
    }
}
