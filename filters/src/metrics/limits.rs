//! How much metrics may hold, and how long they remember.

use std::time::Duration;

/// The bounds of every family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Series of one family with its own labels, and as many with others.
    pub max_series: usize,
    /// How long a series stays that nobody uses.
    pub idle: Duration,
}

impl Limits {
    pub const DEFAULT: Limits = Limits {
        max_series: 20_000,
        idle: Duration::from_secs(3600),
    };

    /// How often to look for idle series.
    pub fn sweep(&self) -> Duration {
        (self.idle / 4).clamp(Duration::from_secs(1), Duration::from_secs(60))
    }

    /// For what more than `max_series` is folded into.
    pub(crate) fn max_folded(&self) -> usize {
        self.max_series / 8 + 1
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_series_are_looked_for_several_times_while_they_stay() {
        assert_eq!(Limits::DEFAULT.sweep(), Duration::from_secs(60));
        let short = Limits {
            idle: Duration::from_secs(8),
            ..Limits::DEFAULT
        };
        assert_eq!(short.sweep(), Duration::from_secs(2));
    }
}
