//! How many requests began within the last while: counted in slices of it, without a lock.
//!
//! A slice is a thirty-first part of the interval, so that a request counts for as long as the interval, less at most that. After a change
//! of the interval the count is off for as long as one lasts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SLICES: u32 = 32;

/// Numbers of slices in the upper half, what they count in the lower.
#[derive(Debug)]
pub(crate) struct RecentRequests {
    since: Instant,
    slices: [AtomicU64; SLICES as usize],
}

impl RecentRequests {
    pub(crate) fn new(now: Instant) -> RecentRequests {
        RecentRequests {
            since: now,
            slices: Default::default(),
        }
    }

    /// One more began.
    pub(crate) fn add(&self, now: Instant, interval: Duration) {
        let number = self.number(now, interval);
        let Some(slice) = self.slices.get((number % SLICES) as usize) else {
            return;
        };
        let one_more = |found: u64| {
            let (of, count) = parts(found);
            let count = if of == number { count } else { 0 };
            Some((u64::from(number) << 32) | u64::from(count.saturating_add(1)))
        };
        // It always gives a value.
        let _ = slice.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
    }

    /// How many began within the interval.
    pub(crate) fn count(&self, now: Instant, interval: Duration) -> u32 {
        let number = self.number(now, interval);
        let slices = self
            .slices
            .iter()
            .map(|slice| parts(slice.load(Ordering::Relaxed)));
        let recent = slices.filter(|(of, _)| number.wrapping_sub(*of) < SLICES - 1);
        recent.fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// The first is 1, so that an empty slice is none of those that count at first.
    fn number(&self, now: Instant, interval: Duration) -> u32 {
        let width = (interval / (SLICES - 1)).as_nanos().max(1);
        let passed = now.saturating_duration_since(self.since).as_nanos() / width;
        (passed as u32).wrapping_add(1)
    }
}

fn parts(slice: u64) -> (u32, u32) {
    ((slice >> 32) as u32, slice as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_for_as_long_as_the_interval() {
        let start = Instant::now();
        let interval = Duration::from_millis(3100);
        let at = |millis: u64| start + Duration::from_millis(millis);
        let recent = RecentRequests::new(start);
        assert_eq!(recent.count(at(0), interval), 0);
        (0..10).for_each(|_| recent.add(at(0), interval));
        recent.add(at(1000), interval);
        assert_eq!(recent.count(at(1000), interval), 11);
        assert_eq!(recent.count(at(2999), interval), 11);
        assert_eq!(recent.count(at(3100), interval), 1);
        assert_eq!(recent.count(at(4100), interval), 0);
        // Its slice is used again.
        recent.add(at(100 * 3100), interval);
        assert_eq!(recent.count(at(100 * 3100), interval), 1);
    }
}
