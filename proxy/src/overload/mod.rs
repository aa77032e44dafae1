//! The overload manager: what the process holds, against what it may hold, and what is done about it.
//!
//! Two sums are looked at by a thread of its own, so that neither traffic nor configuration can keep it from looking. What
//! is *used* is what the allocator has given out and what the kernel keeps for sockets: it misses nothing, and says when to
//! act ([`ladder`]). What is *held* is counted where it is held, by tunnel, connection and identity, and says on whom
//! ([`holders`]).
//!
//! The process dies of what is resident, which is somewhat more than what is in use: free memory that the allocator keeps, and
//! gaps. So the steps begin well below the limit. What is resident counts too, but at two thirds: the allocator gives
//! back slowly, uses it again meanwhile, and nobody shall be turned away for what is free already.

pub(crate) mod holders;
mod ladder;
pub(crate) mod limit;
mod meter;
pub(crate) mod paced;
mod step_log;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};

use tokio::time::Instant;
use waypoint_filters::metrics::{Counter, CounterFamily, Gauge, MetricRegistry};
use waypoint_filters::service::local_reply::LocalReply;
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_hbone::http2::Squeeze;

use crate::overload::holders::{Bounds, Connection, Held, Holders, InFlight, by_identity, largest};
use crate::overload::ladder::{Ladder, Step};
use crate::overload::limit::Cgroup;
use crate::overload::meter::{Meter, pause};
use crate::overload::step_log::{StepLog, Sums};
use crate::process::allocator::Allocator;
use crate::process::vitals::{Beating, Vitals};

/// `%RESPONSE_CODE_DETAILS%` of what is refused or ended for want of memory, as Envoy has it.
pub(crate) const DETAILS: &str = "overload";

/// What a request at work costs that moves: its head, its tasks, a connection upstream. Stalled ones hold more, and it is
/// the sum that says whether they may.
const PER_EXCHANGE: u64 = 32 * 1024;

/// An HBONE connection's window: this part of the limit, within bounds.
const WINDOW_PART: u64 = 64;
const WINDOW: std::ops::Range<u64> = 1024 * 1024..16 * 1024 * 1024;

/// What there may be of each, following from the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Connections to endpoints.
    pub(crate) upstream: usize,
    /// And to those of one cluster, which may all be stalled.
    pub(crate) upstream_per_cluster: usize,
    pub(crate) exchanges_per_connection: usize,
    pub(crate) exchanges_per_identity: usize,
    /// Unread bytes that a peer may send on an HBONE connection, and on one of its tunnels.
    pub(crate) connection_window: u32,
    pub(crate) stream_window: u32,
}

impl Sizes {
    pub(crate) fn of(limit: Option<u64>) -> Sizes {
        let all = limit.map_or(64 * 1024, |limit| limit / PER_EXCHANGE);
        let all = usize::try_from(all).unwrap_or(usize::MAX).max(256);
        let window = limit.map_or(WINDOW.end, |limit| limit / WINDOW_PART);
        let window = window.clamp(WINDOW.start, WINDOW.end) as u32;
        Sizes {
            connection_window: window,
            stream_window: window / 16,
            upstream: all,
            upstream_per_cluster: all / 2,
            exchanges_per_connection: all / 4,
            exchanges_per_identity: all / 2,
        }
    }
}

/// What everybody asks before taking more.
pub(crate) struct Overload {
    pub(crate) sizes: Sizes,
    limit: Option<u64>,
    step: AtomicU8,
    holders: Holders,
    squeeze: Squeeze,
    tunnels_refused: Counter,
    requests_refused: Counter,
    metrics: Metrics,
}

struct Metrics {
    used: Gauge,
    held: Gauge,
    active: Vec<Gauge>,
    taken: Arc<CounterFamily>,
    tunnels_reset: Counter,
}

impl Overload {
    /// `limit`: what the process may use, as it was told. The kernel's limit counts as well.
    pub(crate) fn start(
        told: Option<u64>,
        allocator: Allocator,
        metrics: &MetricRegistry,
        vitals: Vitals,
    ) -> std::io::Result<Arc<Overload>> {
        // A group without a limit is the host's: what else is in it isn't ours.
        let cgroup = Cgroup::own().filter(|group| group.limit().is_some());
        let limit = told
            .into_iter()
            .chain(cgroup.as_ref().and_then(Cgroup::limit));
        let limit = limit.min();
        let overload = Arc::new(Overload::new(limit, metrics));
        let Some(limit) = limit else {
            tracing::info!(
                "no memory limit is known: memory is counted, and nothing is refused for it"
            );
            return Ok(overload);
        };
        let meter = Meter::new(allocator, cgroup);
        let watched = Arc::downgrade(&overload);
        std::thread::Builder::new()
            .name("overload".into())
            .spawn(move || {
                vitals.guard_thread("the overload manager", || {
                    watch(&watched, meter, limit, &vitals);
                });
            })?;
        Ok(overload)
    }

    fn new(limit: Option<u64>, metrics: &MetricRegistry) -> Overload {
        let gauge = |name, help| metrics.gauges(name, help, &[]).with(&[]);
        let active = metrics.gauges(
            "waypoint_overload_action_active",
            "Whether this is done because memory is short.",
            &["action"],
        );
        let refused = metrics.counters(
            "waypoint_overload_refused_total",
            "What was refused because memory is short, or because its connection or identity has too much at work.",
            &["what"],
        );
        let taken = metrics.counters(
            "waypoint_overload_actions_total",
            "How often this began because memory was short.",
            &["action"],
        );
        for step in Step::ALL {
            taken.with(&[step.name().into()]);
        }
        let all = limit.unwrap_or(0);
        gauge(
            "waypoint_memory_limit_bytes",
            "What the process may use; 0: not known.",
        )
        .set(all);
        Overload {
            sizes: Sizes::of(limit),
            limit,
            step: AtomicU8::new(0),
            holders: Holders::default(),
            squeeze: Squeeze::default(),
            tunnels_refused: refused.with(&["tunnel".into()]),
            requests_refused: refused.with(&["request".into()]),
            metrics: Metrics {
                used: gauge(
                    "waypoint_memory_used_bytes",
                    "What the process uses of its limit: memory in use, and sockets' buffers.",
                ),
                held: gauge(
                    "waypoint_memory_held_bytes",
                    "What tunnels hold: bytes that were not passed on yet, and requests at work.",
                ),
                active: Step::ALL
                    .iter()
                    .map(|step| active.with(&[step.name().into()]))
                    .collect(),
                taken,
                tunnels_reset: metrics.counter(
                    "waypoint_overload_tunnels_reset_total",
                    "Tunnels that were reset because memory was short, and their peer held most.",
                ),
            },
        }
    }

    /// An HBONE connection of an identified peer begins.
    pub(crate) fn connection(
        &self,
        identity: &waypoint_hbone::identity::Identity,
    ) -> Arc<Connection> {
        self.holders.connection(identity)
    }

    /// How much is in flight, as a sum over all that is.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.holders.in_flight()
    }

    /// On while peers may send little ahead.
    pub(crate) fn squeeze(&self) -> &Squeeze {
        &self.squeeze
    }

    fn step(&self) -> Step {
        Step::from_number(self.step.load(Ordering::Relaxed))
    }

    /// Whether memory is short: whatever is new is made small, and what is idle goes.
    pub(crate) fn is_short(&self) -> bool {
        self.squeeze.is_on()
    }

    /// Whether so much more may be used for what isn't traffic: traffic notices nothing of it.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        let with_it = self.metrics.used.get().saturating_add(bytes);
        self.limit
            .is_none_or(|limit| with_it < limit / 100 * Step::ShrinkWindows.begins())
    }

    /// Whether there may be one more HBONE connection.
    pub(crate) fn admits_connection(&self) -> bool {
        self.step() < Step::StopAcceptingConnections
    }

    /// Whether there may be one more tunnel on this connection; one that may not is counted.
    pub(crate) fn admits_tunnel(&self, connection: &Connection) -> bool {
        let step = self.step();
        let refused = step >= Step::StopAcceptingConnections
            || (step >= Step::StopAcceptingTunnels && connection.share().is_refusing());
        if refused {
            self.tunnels_refused.add(1);
        }
        !refused
    }

    /// The answer to a request on a connection that takes no more.
    pub(crate) fn refuse_request(&self) -> LocalReply {
        self.requests_refused.add(1);
        LocalReply::new(
            http::StatusCode::SERVICE_UNAVAILABLE,
            "waypoint overloaded",
            DETAILS,
        )
        .with_flags(ResponseFlags::OVERLOAD_MANAGER)
    }

    /// Does what is to be done about this much.
    fn act(&self, ladder: &mut Ladder, log: &mut StepLog, used: u64, limit: u64, now: Instant) {
        let before = ladder.step;
        ladder.go(used, limit, now);
        let held = self.holders.look();
        let sum: u64 = held.iter().map(|one| one.bytes).sum();
        self.metrics.used.set(used);
        self.metrics.held.set(sum);
        let fair = limit / 16;
        let most = by_identity(&held).values().map(|sum| sum.bytes).max();
        self.holders.bound(&held, &self.bounds(ladder.step, fair));
        if self.is_short() {
            for one in &held {
                one.tunnel.renew_window();
            }
        }
        if ladder.step != before {
            self.take(ladder.step, before);
            let held = sum;
            log.step(ladder.step, before, Sums { used, held, limit }, now);
        }
        let one = most.is_some_and(|most| most >= fair);
        if let Some(excess) = ladder.excess(used, limit, one, now) {
            self.reset(largest(held, excess), log, now);
        }
    }

    fn bounds(&self, step: Step, fair: u64) -> Bounds {
        let greedy_are_refused = step >= Step::StopAcceptingTunnels;
        Bounds {
            exchanges_per_connection: self.sizes.exchanges_per_connection,
            exchanges_per_identity: self.sizes.exchanges_per_identity,
            fair: if greedy_are_refused { fair } else { u64::MAX },
        }
    }

    fn take(&self, step: Step, before: Step) {
        self.step.store(step as u8, Ordering::Relaxed);
        self.squeeze.set(step >= Step::ShrinkWindows);
        for (action, gauge) in Step::ALL.into_iter().zip(&self.metrics.active) {
            gauge.set(u64::from(step >= action));
            if step >= action && before < action {
                self.metrics.taken.with(&[action.name().into()]).add(1);
            }
        }
    }

    fn reset(&self, victims: Vec<Held>, log: &mut StepLog, now: Instant) {
        self.metrics.tunnels_reset.add(victims.len() as u64);
        log.reset(&victims, now);
        for victim in victims {
            victim.tunnel.evict();
        }
    }
}

/// Looks for as long as anybody has the overload manager.
fn watch(overload: &Weak<Overload>, mut meter: Meter, limit: u64, vitals: &Vitals) {
    let mut ladder = Ladder::default();
    let mut log = StepLog::default();
    loop {
        vitals.beat_once(Beating::Overload);
        let used = meter.used(limit);
        let Some(overload) = overload.upgrade() else {
            return;
        };
        let start = Instant::now();
        overload.act(&mut ladder, &mut log, used, limit, start);
        drop(overload);
        // Where there are thousands of tunnels a look takes a while: at most a fifth of the time goes into looking.
        let pause = pause(used, limit).max(start.elapsed() * 4);
        std::thread::sleep(pause);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use waypoint_hbone::identity::Identity;

    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMIT: u64 = 64 * MIB;

    fn identity(name: &str) -> Identity {
        Identity::istio("cluster.local", "default", name).unwrap()
    }

    #[test]
    fn the_greedy_are_refused_first_then_all_and_the_largest_is_reset() {
        let metrics = MetricRegistry::default();
        let overload = Overload::new(Some(LIMIT), &metrics);
        let (greedy, other) = (
            overload.connection(&identity("greedy")),
            overload.connection(&identity("other")),
        );
        let tunnel = greedy.tunnel();
        let held = tunnel.account().charge(vec![0; 8 * MIB as usize].into());
        let (mut ladder, mut log, now) = (Ladder::default(), StepLog::default(), Instant::now());
        let mut at = |percent: u64| {
            overload.act(
                &mut ladder,
                &mut log,
                LIMIT / 100 * percent + 100,
                LIMIT,
                now,
            );
            [
                overload.is_short(),
                !overload.admits_tunnel(&greedy),
                !overload.admits_tunnel(&other),
                !overload.admits_connection(),
                tunnel.is_evicted(),
            ]
        };
        assert_eq!(at(60), [false; 5]);
        assert_eq!(at(66), [true, false, false, false, false]);
        assert_eq!(at(73), [true, true, false, false, false]);
        assert_eq!(at(81), [true; 5]);
        drop(held);
        assert_eq!(at(10), [false, false, false, false, true]);
        let text = metrics.encode();
        for line in [
            "waypoint_overload_action_active{action=\"reset_high_memory\"} 0",
            "waypoint_overload_actions_total{action=\"stop_accepting_connections\"} 1",
            "waypoint_overload_actions_total{action=\"shrink_windows\"} 1",
            "waypoint_overload_tunnels_reset_total 1",
            "waypoint_overload_refused_total{what=\"tunnel\"} 3",
            "waypoint_memory_limit_bytes 67108864",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn windows_follow_the_limit() {
        for (limit, connection, stream) in [
            (None, 16 * MIB, MIB),
            (Some(4096 * MIB), 16 * MIB, MIB),
            (Some(1024 * MIB), 16 * MIB, MIB),
            (Some(128 * MIB), 2 * MIB, MIB / 8),
            (Some(16 * MIB), MIB, MIB / 16),
        ] {
            let sizes = Sizes::of(limit);
            assert_eq!(u64::from(sizes.connection_window), connection);
            assert_eq!(u64::from(sizes.stream_window), stream);
        }
    }

    #[test]
    fn where_nobody_stands_out_nobody_is_refused_until_all_are_and_the_largest_goes_last() {
        let overload = Overload::new(Some(LIMIT), &MetricRegistry::default());
        let connection = overload.connection(&identity("one"));
        let tunnel = connection.tunnel();
        let _held = tunnel.account().charge(vec![0; MIB as usize].into());
        let (mut ladder, mut log, now) = (Ladder::default(), StepLog::default(), Instant::now());
        for (percent, admitted, evicted) in
            [(78, true, false), (81, false, false), (86, false, true)]
        {
            overload.act(
                &mut ladder,
                &mut log,
                LIMIT / 100 * percent + 100,
                LIMIT,
                now,
            );
            let state = (overload.admits_tunnel(&connection), tunnel.is_evicted());
            assert_eq!(state, (admitted, evicted), "{percent}");
        }
    }
}
