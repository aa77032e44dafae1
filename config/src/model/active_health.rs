//! What active checks say of an endpoint: how checks that pass and fail add up to a standing, and what a cluster's come to.
//!
//! The rules are Envoy's (1.40). A first check decides at once, whichever way it goes. An answer that isn't as expected takes an
//! endpoint out at once, too; only what happens on the way to it (no connection, no answer in time), and answers that are told to
//! be tried again, are counted up to a threshold. One task records an endpoint's checks; everybody reads what they came to.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// What came of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    Passed,
    /// An answer that isn't as expected.
    Refused,
    /// The same, but it counts up to the threshold (`retriable_statuses`).
    Retriable,
    /// No connection, or it ended before the answer did.
    Failed,
    /// No answer in time.
    TimedOut,
}

impl CheckOutcome {
    pub fn is_of_network(self) -> bool {
        matches!(self, CheckOutcome::Failed | CheckOutcome::TimedOut)
    }
}

/// What a check changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    Unchanged,
    /// Not yet: more like it are needed.
    Pending,
    Changed,
}

/// So many in a row change an endpoint's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckThresholds {
    pub healthy: u32,
    pub unhealthy: u32,
}

/// An endpoint's standing. It lives as long as the endpoint does.
#[derive(Debug, Default)]
pub struct ActiveHealth {
    standing: AtomicU8,
    /// Checks in a row that speak against the standing.
    in_a_row: AtomicU32,
    timed_out: AtomicBool,
    redeemed: AtomicBool,
    leaving: AtomicBool,
}

/// Nobody checks it.
const UNCHECKED: u8 = 0;
/// It is to be checked, and gets nothing until then.
const AWAITED: u8 = 1;
/// It is to be checked, and was in use before anybody asked for that.
const TRUSTED: u8 = 2;
const PASSING: u8 = 3;
const FAILING: u8 = 4;

impl ActiveHealth {
    /// Whether it is to be checked.
    pub fn is_checked(&self) -> bool {
        self.standing.load(Ordering::Relaxed) != UNCHECKED
    }

    /// Whether checks keep it from being used.
    pub fn is_failed(&self) -> bool {
        matches!(self.standing.load(Ordering::Relaxed), AWAITED | FAILING)
    }

    /// Whether a check has been made, and passed last that it needed to.
    pub fn is_passing(&self) -> bool {
        self.standing.load(Ordering::Relaxed) == PASSING
    }

    /// It is checked from now on; `trusted`: it was in use before. Says whether that keeps it from being used now.
    pub(crate) fn expect(&self, trusted: bool) -> bool {
        if self.standing.load(Ordering::Relaxed) != UNCHECKED {
            return false;
        }
        let standing = if trusted { TRUSTED } else { AWAITED };
        self.standing.store(standing, Ordering::Relaxed);
        !trusted
    }

    /// It isn't checked any more. Says whether it may be used again thereby.
    pub(crate) fn forget(&self) -> bool {
        let was_failed = self.is_failed();
        if self.standing.load(Ordering::Relaxed) != UNCHECKED {
            self.standing.store(UNCHECKED, Ordering::Relaxed);
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        was_failed
    }

    /// Whether checks keep it from being used because the last one wasn't answered in time.
    pub fn is_timed_out(&self) -> bool {
        self.is_failed() && self.timed_out.load(Ordering::Relaxed)
    }

    /// It passed a check though its answers had taken it out.
    pub fn redeem(&self) {
        self.redeemed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_redeemed(&self) -> bool {
        self.redeemed.load(Ordering::Relaxed) && self.redeemed.swap(false, Ordering::Relaxed)
    }

    /// Whether nobody lists it any more, and it is used until a check fails.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    pub(crate) fn set_leaving(&self, leaving: bool) {
        if self.is_leaving() != leaving {
            self.leaving.store(leaving, Ordering::Relaxed);
        }
    }

    /// Adds a check.
    pub fn record(&self, outcome: CheckOutcome, thresholds: CheckThresholds) -> Transition {
        let standing = self.standing.load(Ordering::Relaxed);
        let passed = outcome == CheckOutcome::Passed;
        let timed_out = outcome == CheckOutcome::TimedOut;
        self.timed_out.store(timed_out, Ordering::Relaxed);
        match (standing, passed) {
            // It isn't checked any more, and this is the last of those that were.
            (UNCHECKED, _) => Transition::Unchanged,
            (AWAITED, true) => self.become_of(PASSING, Transition::Changed),
            (AWAITED, false) => self.become_of(FAILING, Transition::Unchanged),
            (TRUSTED, true) => self.become_of(PASSING, Transition::Unchanged),
            (TRUSTED, false) => self.become_of(FAILING, Transition::Changed),
            (FAILING, false) | (PASSING, true) => self.become_of(standing, Transition::Unchanged),
            (FAILING, true) => self.one_more(thresholds.healthy, PASSING),
            (_, false) if outcome == CheckOutcome::Refused => {
                self.become_of(FAILING, Transition::Changed)
            }
            (_, false) => self.one_more(thresholds.unhealthy, FAILING),
            // There is no other standing.
            (_, true) => Transition::Unchanged,
        }
    }

    fn one_more(&self, threshold: u32, then: u8) -> Transition {
        let count = self.in_a_row.load(Ordering::Relaxed).saturating_add(1);
        if count == threshold {
            return self.become_of(then, Transition::Changed);
        }
        self.in_a_row.store(count, Ordering::Relaxed);
        Transition::Pending
    }

    fn become_of(&self, standing: u8, transition: Transition) -> Transition {
        self.in_a_row.store(0, Ordering::Relaxed);
        self.standing.store(standing, Ordering::Relaxed);
        transition
    }
}

/// What a cluster's checks came to so far, in the names of Envoy's counters, and whether one of them changed something.
#[derive(Debug, Default)]
pub struct CheckCounts {
    alarmed: AtomicBool,
    attempts: AtomicU64,
    successes: AtomicU64,
    failures: AtomicU64,
    network_failures: AtomicU64,
    verified: AtomicU64,
}

impl CheckCounts {
    pub fn begun(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    pub fn ended(&self, outcome: CheckOutcome) {
        match outcome {
            CheckOutcome::Passed => self.successes.fetch_add(1, Ordering::Relaxed),
            _ => self.failures.fetch_add(1, Ordering::Relaxed),
        };
        if outcome.is_of_network() {
            self.network_failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An answer was asked whose it is.
    pub fn verified(&self) {
        self.verified.fetch_add(1, Ordering::Relaxed);
    }

    /// By Envoy's names.
    pub fn all(&self) -> [(&'static str, u64); 6] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("attempt", of(&self.attempts)),
            ("success", of(&self.successes)),
            ("failure", of(&self.failures)),
            ("network_failure", of(&self.network_failures)),
            // Answers to requests take nobody out.
            ("passive_failure", 0),
            ("verify_cluster", of(&self.verified)),
        ]
    }

    /// The control thread has something to look at.
    pub fn alarm(&self) {
        self.alarmed.store(true, Ordering::Release);
    }

    pub(crate) fn take_alarm(&self) -> bool {
        self.alarmed.load(Ordering::Relaxed) && self.alarmed.swap(false, Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::CheckOutcome::{Failed, Passed, Refused, Retriable, TimedOut};
    use super::Transition::{Changed, Pending, Unchanged};
    use super::*;

    const THRESHOLDS: CheckThresholds = CheckThresholds {
        healthy: 2,
        unhealthy: 3,
    };

    fn record(health: &ActiveHealth, outcomes: &[CheckOutcome]) -> Vec<Transition> {
        let recorded = outcomes.iter().map(|o| health.record(*o, THRESHOLDS));
        recorded.collect()
    }

    #[test]
    fn the_first_check_decides() {
        for (trusted, outcome, failed_before, transition) in [
            (false, Passed, true, Changed),
            (false, Failed, true, Unchanged),
            (true, Passed, false, Unchanged),
            (true, Failed, false, Changed),
        ] {
            let health = ActiveHealth::default();
            assert!(!health.is_failed());
            assert_eq!(health.expect(trusted), failed_before);
            assert_eq!(health.is_failed(), failed_before);
            assert_eq!(record(&health, &[outcome]), [transition]);
            assert_eq!(health.is_failed(), outcome == Failed);
            assert!(!health.expect(false), "it is known by now");
        }
    }

    #[test]
    fn so_many_in_a_row_change_a_standing() {
        let health = ActiveHealth::default();
        health.expect(false);
        record(&health, &[Passed]);
        let failures = [Failed, TimedOut, Passed, Retriable, Failed, TimedOut];
        assert_eq!(
            record(&health, &failures),
            [Pending, Pending, Unchanged, Pending, Pending, Changed]
        );
        assert!(health.is_failed());
        let passes = [Passed, Failed, Passed, Passed, Passed];
        assert_eq!(
            record(&health, &passes),
            [Pending, Unchanged, Pending, Changed, Unchanged]
        );
        assert!(health.is_passing());
    }

    #[test]
    fn an_answer_that_is_not_as_expected_is_enough() {
        let health = ActiveHealth::default();
        health.expect(false);
        assert_eq!(record(&health, &[Passed, Refused]), [Changed, Changed]);
        assert!(health.is_failed());
        assert!(health.forget());
        assert!(!health.is_failed());
        assert_eq!(record(&health, &[Failed, Failed, Failed]), [Unchanged; 3]);
        assert!(!health.is_failed());
    }

    #[test]
    fn counts_are_envoys() {
        let counts = CheckCounts::default();
        for outcome in [Passed, Refused, Failed, TimedOut] {
            counts.begun();
            counts.ended(outcome);
        }
        let all = counts.all();
        assert_eq!(all.map(|(_, count)| count), [4, 1, 3, 2, 0, 0]);
        assert!(!counts.take_alarm());
        counts.alarm();
        assert!(counts.take_alarm() && !counts.take_alarm());
    }
}
