//! Reads what the process uses, and says when to look again.
//!
//! Memory that is free and that the allocator keeps is given back when there is much of it and the limit isn't far (Envoy's
//! action `shrink_heap`): the kernel counts it.

use std::time::{Duration, Instant};

use crate::overload::ladder::Step;
use crate::overload::limit::Cgroup;
use crate::process::allocator::Allocator;

/// How often it is looked at while there is plenty of memory.
const CALM: Duration = Duration::from_millis(250);
/// And at most: a look costs some 50 µs.
const ALERT: Duration = Duration::from_millis(5);
/// Bytes that peers can make the process hold within a millisecond: 500 MB/s, about what two cores decrypt and move
/// in memory. The less is left, the sooner it may be gone.
const FASTEST: u64 = 500_000;

/// How often the allocator is made to give back what is free.
const GIVE_BACK: Duration = Duration::from_millis(250);

/// Where the numbers come from.
pub(super) struct Meter {
    allocator: Allocator,
    /// Only one with a limit: what else is in it counts against that, too.
    cgroup: Option<Cgroup>,
    gave_back: Option<Instant>,
}

impl Meter {
    pub(super) fn new(allocator: Allocator, cgroup: Option<Cgroup>) -> Meter {
        Meter {
            allocator,
            cgroup,
            gave_back: None,
        }
    }

    pub(super) fn used(&mut self, limit: u64) -> u64 {
        let mut anonymous = anonymous_of_process().unwrap_or(0);
        let in_use = (self.allocator.in_use)();
        let lately = self.gave_back.is_some_and(|at| at.elapsed() < GIVE_BACK);
        if !lately && in_use.is_some_and(|in_use| is_worth_giving_back(in_use, anonymous, limit)) {
            (self.allocator.give_back)();
            self.gave_back = Some(Instant::now());
            anonymous = anonymous_of_process().unwrap_or(anonymous);
        }
        match self.cgroup.as_ref().and_then(Cgroup::usage) {
            Some((all, sockets)) => used(in_use, anonymous, all, sockets),
            None => used(in_use, anonymous, anonymous, 0),
        }
    }
}

/// What counts: memory in use with sockets' buffers, or a part of what is resident.
fn used(in_use: Option<u64>, anonymous: u64, resident: u64, sockets: u64) -> u64 {
    let most = resident / 3 * 2;
    most.max(in_use.unwrap_or(anonymous).saturating_add(sockets))
}

/// Whether so much of what is resident is free that the kernel should have it back.
fn is_worth_giving_back(in_use: u64, anonymous: u64, limit: u64) -> bool {
    anonymous > limit / 2 && anonymous.saturating_sub(in_use) > limit / 8
}

/// Resident memory that no file is behind.
fn anonymous_of_process() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// How long to wait before the next look.
pub(super) fn pause(used: u64, limit: u64) -> Duration {
    let first_step = limit / 100 * Step::ShrinkWindows.begins();
    Duration::from_millis(first_step.saturating_sub(used) / FASTEST).clamp(ALERT, CALM)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_that_the_allocator_keeps_counts_less() {
        assert_eq!(used(Some(50), 100, 99, 7), 66);
        assert_eq!(used(Some(95), 100, 100, 7), 102);
        assert_eq!(used(None, 100, 80, 0), 100);
        assert!(anonymous_of_process().unwrap() > 100_000);
    }

    #[test]
    fn the_less_is_left_the_sooner_it_is_looked_at_again() {
        const MIB: u64 = 1 << 20;
        assert_eq!(pause(10 * MIB, 1024 * MIB), CALM);
        assert_eq!(pause(570 * MIB, 1024 * MIB), Duration::from_millis(200));
        // What is small is full sooner.
        assert_eq!(pause(10 * MIB, 96 * MIB), Duration::from_millis(109));
        assert_eq!(pause(60 * MIB, 96 * MIB), ALERT);
        assert_eq!(pause(96 * MIB, 96 * MIB), ALERT);
    }

    #[test]
    fn what_is_free_is_given_back_when_it_is_much_and_the_limit_near() {
        for (in_use, anonymous, worth) in [
            (30, 87, true),
            (30, 49, false),
            (80, 90, false),
            (120, 90, false),
        ] {
            assert_eq!(is_worth_giving_back(in_use, anonymous, 100), worth);
        }
    }
}
