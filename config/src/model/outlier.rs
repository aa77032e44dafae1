//! What an endpoint's answers say of it: counted where they come in, judged on the control thread
//! ([`outlier_detector`](crate::model::cluster::outlier_detector)).
//!
//! Counting is Envoy's. What happens on the way to an endpoint (no connection, no answer in time) counts as an answer of 5xx, unless
//! the cluster keeps the two apart (`split_external_local_origin_errors`).

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// What came of one attempt at an endpoint, as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The head of an answer, with this status.
    Answered(u16),
    /// A connection for a request.
    Connected,
    /// A connection for bytes: there is nothing more to judge by.
    Carrying,
    /// No answer in time.
    TimedOut,
    /// No connection, or it ended before the answer did.
    Failed,
}

/// By what an outlier is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    LocalOriginSuccessRate,
    FailurePercentage,
    LocalOriginFailurePercentage,
}

impl Sign {
    pub const ALL: [Sign; 7] = [
        Sign::Consecutive5xx,
        Sign::ConsecutiveGatewayFailure,
        Sign::ConsecutiveLocalOriginFailure,
        Sign::SuccessRate,
        Sign::LocalOriginSuccessRate,
        Sign::FailurePercentage,
        Sign::LocalOriginFailurePercentage,
    ];

    /// As Envoy's counters have it.
    pub fn name(self) -> &'static str {
        match self {
            Sign::Consecutive5xx => "consecutive_5xx",
            Sign::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Sign::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Sign::SuccessRate => "success_rate",
            Sign::LocalOriginSuccessRate => "local_origin_success_rate",
            Sign::FailurePercentage => "failure_percentage",
            Sign::LocalOriginFailurePercentage => "local_origin_failure_percentage",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// So many in a row are a sign; 0: they never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub consecutive_local_origin_failure: u32,
    /// Whether what happens on the way is counted apart from answers.
    pub split: bool,
}

/// An endpoint's record; it lives as long as the endpoint does.
#[derive(Debug, Default)]
pub struct Monitor {
    ejected: AtomicBool,
    consecutive_5xx: AtomicU32,
    consecutive_gateway_failure: AtomicU32,
    consecutive_local_origin_failure: AtomicU32,
    /// Signs that the control thread hasn't looked at.
    signs: AtomicU8,
    external: Tally,
    local: Tally,
}

/// Attempts since the last look, and those that succeeded.
#[derive(Debug, Default)]
struct Tally {
    total: AtomicU32,
    good: AtomicU32,
}

/// What a look at a tally found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) volume: u32,
    pub(crate) success_percent: f64,
}

impl Monitor {
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Counts an outcome; says whether there is a sign for the control thread to look at.
    pub fn count(&self, outcome: Outcome, thresholds: &Thresholds) -> bool {
        match (outcome, thresholds.split) {
            (Outcome::Answered(status), _) => self.answered(status, thresholds),
            (Outcome::Connected, false) => false,
            (Outcome::Carrying, false) => self.answered(200, thresholds),
            (Outcome::TimedOut, false) => self.answered(504, thresholds),
            (Outcome::Failed, false) => self.answered(503, thresholds),
            (Outcome::Connected | Outcome::Carrying, true) => {
                self.local.add(true);
                clear(&self.consecutive_local_origin_failure);
                false
            }
            (Outcome::TimedOut | Outcome::Failed, true) => {
                self.local.add(false);
                self.one_more(
                    &self.consecutive_local_origin_failure,
                    thresholds.consecutive_local_origin_failure,
                    Sign::ConsecutiveLocalOriginFailure,
                )
            }
        }
    }

    fn answered(&self, status: u16, thresholds: &Thresholds) -> bool {
        self.external.add(status < 500);
        if status < 500 {
            clear(&self.consecutive_5xx);
            clear(&self.consecutive_gateway_failure);
            return false;
        }
        let mut found = false;
        if matches!(status, 502..=504) {
            found |= self.one_more(
                &self.consecutive_gateway_failure,
                thresholds.consecutive_gateway_failure,
                Sign::ConsecutiveGatewayFailure,
            );
        } else {
            clear(&self.consecutive_gateway_failure);
        }
        found
            | self.one_more(
                &self.consecutive_5xx,
                thresholds.consecutive_5xx,
                Sign::Consecutive5xx,
            )
    }

    fn one_more(&self, counter: &AtomicU32, threshold: u32, sign: Sign) -> bool {
        let count = counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let found = threshold > 0 && count == threshold;
        if found {
            self.signs.fetch_or(sign.bit(), Ordering::Relaxed);
        }
        found
    }

    /// The signs since the last look. Their counters begin anew.
    pub(crate) fn take_signs(&self) -> impl Iterator<Item = Sign> + use<> {
        let signs = self.signs.swap(0, Ordering::Relaxed);
        let found = Sign::ALL.into_iter();
        found.filter(move |sign| signs & sign.bit() != 0)
    }

    /// Begins a row anew.
    pub(crate) fn forget(&self, sign: Sign) {
        match sign {
            Sign::Consecutive5xx => clear(&self.consecutive_5xx),
            Sign::ConsecutiveGatewayFailure => clear(&self.consecutive_gateway_failure),
            Sign::ConsecutiveLocalOriginFailure => clear(&self.consecutive_local_origin_failure),
            _ => {}
        }
    }

    pub(crate) fn eject(&self) {
        self.ejected.store(true, Ordering::Relaxed);
    }

    /// Takes it back, and nothing that was before counts.
    pub(crate) fn take_back(&self) {
        self.ejected.store(false, Ordering::Relaxed);
        self.signs.store(0, Ordering::Relaxed);
        for sign in Sign::ALL {
            self.forget(sign);
        }
    }

    /// How answers, and ways to them, did since the last look; `None`: there were none.
    pub(crate) fn take_rates(&self) -> [Option<Rate>; 2] {
        [self.external.take(), self.local.take()]
    }
}

/// Without a write where there is nothing to clear: all threads read it.
fn clear(counter: &AtomicU32) {
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}

impl Tally {
    fn add(&self, good: bool) {
        self.total.fetch_add(1, Ordering::Relaxed);
        if good {
            self.good.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(&self) -> Option<Rate> {
        let good = self.good.swap(0, Ordering::Relaxed);
        let volume = self.total.swap(0, Ordering::Relaxed);
        (volume > 0).then(|| Rate {
            volume,
            // One may have come between the two.
            success_percent: (100.0 * f64::from(good) / f64::from(volume)).min(100.0),
        })
    }
}

/// What a cluster's endpoints have in common: whether one of them has a sign, and what came of signs so far.
#[derive(Debug, Default)]
pub struct Outliers {
    alarmed: AtomicBool,
    active: AtomicU32,
    overflow: AtomicU64,
    detected: [AtomicU64; 7],
    enforced: [AtomicU64; 7],
}

impl Outliers {
    /// One of the endpoints has a sign.
    pub fn alarm(&self) {
        self.alarmed.store(true, Ordering::Release);
    }

    pub(crate) fn take_alarm(&self) -> bool {
        self.alarmed.load(Ordering::Relaxed) && self.alarmed.swap(false, Ordering::Acquire)
    }

    /// Endpoints that are ejected.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    pub(crate) fn set_active(&self, active: usize) {
        let active = u32::try_from(active).unwrap_or(u32::MAX);
        self.active.store(active, Ordering::Relaxed);
    }

    /// Signs that had no effect because enough endpoints were ejected.
    pub fn overflow(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }

    pub(crate) fn count_overflow(&self) {
        self.overflow.fetch_add(1, Ordering::Relaxed);
    }

    /// How often there was this sign, and how often an endpoint was ejected for it.
    pub fn of(&self, sign: Sign) -> (u64, u64) {
        let of = |counters: &[AtomicU64; 7]| {
            let counter = counters.get(sign as usize);
            counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
        };
        (of(&self.detected), of(&self.enforced))
    }

    pub(crate) fn count_detected(&self, sign: Sign) {
        if let Some(counter) = self.detected.get(sign as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_enforced(&self, sign: Sign) {
        if let Some(counter) = self.enforced.get(sign as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOGETHER: Thresholds = Thresholds {
        consecutive_5xx: 3,
        consecutive_gateway_failure: 2,
        consecutive_local_origin_failure: 2,
        split: false,
    };

    /// Counts outcomes; which of them gave a sign, and the signs.
    fn count(outcomes: &[Outcome], thresholds: &Thresholds) -> (Vec<bool>, Vec<Sign>) {
        let monitor = Monitor::default();
        let found = outcomes.iter().map(|o| monitor.count(*o, thresholds));
        (found.collect(), monitor.take_signs().collect())
    }

    #[test]
    fn answers_in_a_row() {
        use Outcome::Answered;
        let (found, signs) = count(&[Answered(500), Answered(501), Answered(500)], &TOGETHER);
        assert_eq!(found, [false, false, true]);
        assert_eq!(signs, [Sign::Consecutive5xx]);
        let (_, signs) = count(&[Answered(503), Answered(504), Answered(502)], &TOGETHER);
        assert_eq!(
            signs,
            [Sign::Consecutive5xx, Sign::ConsecutiveGatewayFailure]
        );
        let broken = [Answered(503), Answered(500), Answered(503)];
        assert_eq!(count(&broken, &TOGETHER).1, [Sign::Consecutive5xx]);
        let good_between = [Answered(503), Answered(429), Answered(503), Answered(500)];
        assert_eq!(count(&good_between, &TOGETHER).1, []);
        let never = Thresholds {
            consecutive_5xx: 0,
            consecutive_gateway_failure: 0,
            ..TOGETHER
        };
        assert_eq!(count(&[Answered(503); 9], &never).1, []);
    }

    #[test]
    fn what_happens_on_the_way_is_an_answer_or_apart() {
        use Outcome::{Answered, Carrying, Connected, Failed, TimedOut};
        let failures = [Failed, Connected, TimedOut];
        let gateway = [Sign::ConsecutiveGatewayFailure];
        assert_eq!(count(&failures, &TOGETHER).1, gateway);
        assert_eq!(count(&[Failed, Carrying, Failed], &TOGETHER).1, []);
        let apart = Thresholds {
            split: true,
            ..TOGETHER
        };
        let local = [Sign::ConsecutiveLocalOriginFailure];
        assert_eq!(count(&[Failed, Answered(200), TimedOut], &apart).1, local);
        assert_eq!(count(&[Failed, Connected, Failed], &apart).1, []);
        assert_eq!(count(&[Failed, Carrying, Failed], &apart).1, []);
    }

    #[test]
    fn rates_are_of_the_time_since_the_last_look() {
        let monitor = Monitor::default();
        assert_eq!(monitor.take_rates(), [None, None]);
        for status in [200, 200, 404, 500] {
            monitor.count(Outcome::Answered(status), &TOGETHER);
        }
        let rate = Rate {
            volume: 4,
            success_percent: 75.0,
        };
        assert_eq!(monitor.take_rates(), [Some(rate), None]);
        assert_eq!(monitor.take_rates(), [None, None]);
    }
}
