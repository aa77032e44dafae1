//! What the log is told of steps: each at most once in [`TELL`], and the end whenever a beginning was told.

use std::time::Duration;

use tokio::time::Instant;

use crate::overload::holders::Held;
use crate::overload::ladder::Step;

const TELL: Duration = Duration::from_secs(10);

/// What the log was told, and when.
#[derive(Default)]
pub(super) struct StepLog {
    steps: [Sometimes; Step::ALL.len()],
    reset: Sometimes,
    begun: bool,
}

/// What is told along with a step.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub(super) used: u64,
    pub(super) held: u64,
    pub(super) limit: u64,
}

/// Something that is told of now and then.
#[derive(Default)]
struct Sometimes {
    last: Option<Instant>,
    held_back: u64,
}

impl Sometimes {
    /// Whether it is to be told now; and then how often it was not.
    fn may(&mut self, now: Instant) -> Option<u64> {
        let soon = |last: Instant| now.saturating_duration_since(last) < TELL;
        if self.last.is_some_and(soon) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

impl StepLog {
    /// The process went from one step to another.
    pub(super) fn step(&mut self, step: Step, before: Step, sums: Sums, now: Instant) {
        let Sums { used, held, limit } = sums;
        if step == Step::None && std::mem::take(&mut self.begun) {
            tracing::info!(used, held, limit, "memory is no longer short");
        }
        let own = Step::ALL.into_iter().zip(&mut self.steps);
        for (action, told) in own.filter(|(action, _)| *action == step && step > before) {
            if let Some(not_told) = told.may(now) {
                self.begun = true;
                let action = action.name();
                tracing::warn!(used, held, limit, action, not_told, "memory is short");
            }
        }
    }

    /// These are reset; they are one identity's.
    pub(super) fn reset(&mut self, victims: &[Held], now: Instant) {
        let Some(first) = victims.first() else {
            return;
        };
        if let Some(not_told) = self.reset.may(now) {
            let bytes: u64 = victims.iter().map(|one| one.bytes).sum();
            tracing::warn!(
                peer = %first.identity, tunnels = victims.len(), bytes, not_told,
                "memory is short: the largest tunnels of the peer that holds most are reset"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_often_is_told_now_and_then_with_how_often_it_was_not() {
        let now = Instant::now();
        let mut told = Sometimes::default();
        assert_eq!(told.may(now), Some(0));
        assert_eq!(told.may(now + TELL / 2), None);
        assert_eq!(told.may(now + TELL / 2), None);
        assert_eq!(told.may(now + TELL), Some(2));
    }
}
