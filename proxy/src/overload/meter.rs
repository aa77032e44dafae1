//! Reads what the process uses, and says when to look again.

use std::time::Duration;

use crate::overload::InUse;
use crate::overload::limit::Cgroup;

/// How often it is looked at while there is plenty of memory.
const CALM: Duration = Duration::from_millis(250);
/// And when a part of it is used, in percent: the less is left, the sooner it may be gone.
const ALERT: [(u64, Duration); 2] = [
    (60, Duration::from_millis(15)),
    (40, Duration::from_millis(50)),
];

/// Where the numbers come from.
pub(super) struct Meter {
    pub(super) in_use: InUse,
    /// Only one with a limit: what else is in it counts against that, too.
    pub(super) cgroup: Option<Cgroup>,
}

impl Meter {
    pub(super) fn used(&self) -> u64 {
        let anonymous = anonymous().unwrap_or(0);
        let in_use = (self.in_use)();
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

/// Resident memory that no file is behind.
fn anonymous() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// How long to wait before the next look.
pub(super) fn pause(used: u64, limit: u64) -> Duration {
    let alert = ALERT
        .iter()
        .find(|(percent, _)| used > limit / 100 * percent);
    alert.map_or(CALM, |(_, pause)| *pause)
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
        assert!(anonymous().unwrap() > 100_000);
    }

    #[test]
    fn the_less_is_left_the_sooner_it_is_looked_at_again() {
        assert_eq!(pause(10, 1000), CALM);
        assert!(pause(700, 1000) < pause(500, 1000));
        assert!(pause(500, 1000) < CALM);
    }
}
