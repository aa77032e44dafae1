//! Steps against running out of memory: which are taken at which part of the limit, and when each lets go.
//!
//! They are Envoy's overload actions, under the names that we give them in metrics. Each ends only well below where it
//! began, so that it doesn't begin again with the next byte. Steps are taken several at a time, and let go one by one.

use std::time::Duration;

use tokio::time::Instant;

/// Steps, each of them with all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Step {
    #[default]
    None,
    /// Peers may send little ahead, connections that nobody uses are closed.
    ShrinkWindows,
    /// Whoever holds more than a fair part gets no further tunnels.
    StopAcceptingTunnels,
    /// Nobody gets any further connections or tunnels.
    StopAcceptingConnections,
    /// Who holds most loses it.
    ResetHighMemory,
}

impl Step {
    pub(crate) const ALL: [Step; 4] = [
        Step::ShrinkWindows,
        Step::StopAcceptingTunnels,
        Step::StopAcceptingConnections,
        Step::ResetHighMemory,
    ];

    /// For labels and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Step::None => "none",
            Step::ShrinkWindows => "shrink_windows",
            Step::StopAcceptingTunnels => "stop_accepting_tunnels",
            Step::StopAcceptingConnections => "stop_accepting_connections",
            Step::ResetHighMemory => "reset_high_memory",
        }
    }

    /// From how many percent of the limit it is taken.
    pub(crate) fn begins(self) -> u64 {
        match self {
            Step::None => 0,
            Step::ShrinkWindows => 65,
            Step::StopAcceptingTunnels => 72,
            Step::StopAcceptingConnections => 80,
            Step::ResetHighMemory => 85,
        }
    }

    /// Below how many percent it lets go.
    pub(crate) fn ends(self) -> u64 {
        self.begins().saturating_sub(5)
    }

    fn below(self) -> Step {
        match self {
            Step::None | Step::ShrinkWindows => Step::None,
            Step::StopAcceptingTunnels => Step::ShrinkWindows,
            Step::StopAcceptingConnections => Step::StopAcceptingTunnels,
            Step::ResetHighMemory => Step::StopAcceptingConnections,
        }
    }

    pub(crate) fn from_number(number: u8) -> Step {
        let found = Step::ALL.into_iter().find(|step| *step as u8 == number);
        found.unwrap_or_default()
    }
}

/// Where one holds far more than others, he loses it when the second step lasts for so long: before anything is refused
/// to these. And from so many percent on at once.
const PATIENCE: Duration = Duration::from_millis(200);
const AT_ONCE: u64 = 76;
/// What was reset takes a moment to be free. Who takes even more meanwhile isn't waited for: more than so many percent
/// above the least that was used since.
const SETTLING: Duration = Duration::from_millis(150);
const GROWTH: u64 = 5;

/// Where on the way up the process stands.
#[derive(Debug, Default)]
pub(crate) struct Ladder {
    pub(crate) step: Step,
    refusing_since: Option<Instant>,
    reset: Option<Reset>,
}

/// When tunnels were last reset, and the least that was used since.
#[derive(Clone, Copy, Debug)]
struct Reset {
    at: Instant,
    least: u64,
}

impl Ladder {
    /// Goes to where `used` bytes belong.
    pub(crate) fn go(&mut self, used: u64, limit: u64, now: Instant) {
        let percent = percent(used, limit);
        for step in Step::ALL {
            if percent >= step.begins() && self.step < step {
                self.step = step;
            }
        }
        while self.step > Step::None && percent < self.step.ends() {
            self.step = self.step.below();
        }
        if let Some(reset) = &mut self.reset {
            reset.least = reset.least.min(used);
        }
        if self.step >= Step::StopAcceptingTunnels {
            self.refusing_since.get_or_insert(now);
        } else {
            self.refusing_since = None;
        }
    }

    /// How many bytes whoever holds most is to lose now. `one`: he holds far more than others.
    pub(crate) fn excess(&mut self, used: u64, limit: u64, one: bool, now: Instant) -> Option<u64> {
        let long = |since: Option<Instant>, time| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= time)
        };
        let early = one && (percent(used, limit) >= AT_ONCE || long(self.refusing_since, PATIENCE));
        if self.step < Step::ResetHighMemory && !early {
            return None;
        }
        if let Some(reset) = self.reset
            && !long(Some(reset.at), SETTLING)
            && used <= reset.least + limit / 100 * GROWTH
        {
            return None;
        }
        let target = limit / 100 * Step::StopAcceptingTunnels.ends();
        let excess = used.checked_sub(target).filter(|excess| *excess > 0)?;
        self.reset = Some(Reset {
            at: now,
            least: used,
        });
        Some(excess)
    }
}

fn percent(used: u64, limit: u64) -> u64 {
    used.saturating_mul(100) / limit.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1000;

    fn at(ladder: &mut Ladder, used: u64, now: Instant) -> Step {
        ladder.go(used, LIMIT, now);
        ladder.step
    }

    #[test]
    fn each_step_lets_go_well_below_where_it_began() {
        let now = Instant::now();
        let mut ladder = Ladder::default();
        assert_eq!(at(&mut ladder, 640, now), Step::None);
        assert_eq!(at(&mut ladder, 650, now), Step::ShrinkWindows);
        assert_eq!(at(&mut ladder, 610, now), Step::ShrinkWindows);
        assert_eq!(at(&mut ladder, 590, now), Step::None);
        assert_eq!(at(&mut ladder, 990, now), Step::ResetHighMemory);
        assert_eq!(at(&mut ladder, 800, now), Step::ResetHighMemory);
        assert_eq!(at(&mut ladder, 790, now), Step::StopAcceptingConnections);
        assert_eq!(at(&mut ladder, 740, now), Step::StopAcceptingTunnels);
        assert_eq!(at(&mut ladder, 660, now), Step::ShrinkWindows);
        assert_eq!(at(&mut ladder, 0, now), Step::None);
        for step in Step::ALL {
            assert_eq!(Step::from_number(step as u8), step);
            assert!(step.below() < step);
        }
    }

    #[test]
    fn who_holds_most_loses_it_at_the_last_step() {
        let now = Instant::now();
        let mut ladder = Ladder::default();
        at(&mut ladder, 840, now);
        assert_eq!(ladder.excess(840, LIMIT, false, now), None);
        at(&mut ladder, 900, now);
        assert_eq!(ladder.excess(900, LIMIT, false, now), Some(230));
        let soon = now + SETTLING / 2;
        let again = ladder.excess(900, LIMIT, false, soon);
        assert_eq!(again, None, "it takes a moment");
        assert_eq!(ladder.excess(900, LIMIT, false, now + SETTLING), Some(230));
        // Some of it was freed, and more has come.
        at(&mut ladder, 880, soon + SETTLING);
        assert_eq!(ladder.excess(880, LIMIT, false, soon + SETTLING), None);
        at(&mut ladder, 940, soon + SETTLING);
        let again = ladder.excess(940, LIMIT, false, soon + SETTLING);
        assert_eq!(again, Some(270), "nobody waits for who goes on");
    }

    #[test]
    fn one_who_holds_far_more_than_others_loses_it_before_they_are_refused_anything() {
        let now = Instant::now();
        let mut ladder = Ladder::default();
        assert_eq!(at(&mut ladder, 740, now), Step::StopAcceptingTunnels);
        assert_eq!(ladder.excess(740, LIMIT, true, now), None);
        let later = now + PATIENCE;
        assert_eq!(ladder.excess(740, LIMIT, true, later), Some(70));
        let mut ladder = Ladder::default();
        assert_eq!(at(&mut ladder, 770, now), Step::StopAcceptingTunnels);
        assert_eq!(ladder.excess(770, LIMIT, true, now), Some(100));
        let mut ladder = Ladder::default();
        at(&mut ladder, 740, now);
        at(&mut ladder, 660, now);
        at(&mut ladder, 740, later);
        assert_eq!(
            ladder.excess(740, LIMIT, true, later),
            None,
            "it had let go"
        );
    }
}
