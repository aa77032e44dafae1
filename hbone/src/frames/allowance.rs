//! What a peer may do for nothing: of one identity, on however many connections.
//!
//! A connection has an account of its own ([`crate::frames::frame_watch`]). A hundred connections would have a hundred, so the
//! streams of one identity share a further one. It is charged for each stream when that is opened, and gets back when
//! the stream was good for something: it knows of a burst before the first stream of it has ended. Nobody is ended for
//! it alone, since an identity is a whole deployment:
//!
//! - where it is *low*, streams of the identity are read one by one, [`PACE`] apart;
//! - where it is *empty*, each of its connections may waste a quarter of what it else may.
//!
//! Work gives back more than was taken, and so does time. Connections hold it as a few atomics: its table is looked at
//! when a connection comes.
//!
//! Besides, the connections of an identity share its turns, whatever they do ([`Rounds`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::frames::rounds::Rounds;
use crate::identity::Identity;

/// Units that a connection may spend at once, where nothing else is said.
pub const DEFAULT_BUDGET: u32 = 10_000;

/// Between two events of streams of an identity whose account is low.
const PACE: Duration = Duration::from_micros(500);
/// The account is low below this part of what it may have.
const LOW: i64 = 4;
/// It fills up within this time.
const FILL: Duration = Duration::from_millis(2500);
/// Identities without a connection whose account isn't full yet; past that they are forgotten.
const ABSENT: usize = 4096;

/// The account of an identity, and the budget of each of its connections.
#[derive(Debug)]
pub struct Allowance {
    budget: i32,
    epoch: Instant,
    left: AtomicI64,
    /// Until when time has given back: microseconds since the epoch.
    refilled: AtomicU64,
    /// When the next paced event may be read: microseconds since the epoch.
    next: AtomicU64,
    rounds: Rounds,
}

impl Allowance {
    /// A full account, on one thread.
    #[must_use]
    pub fn new(budget: u32) -> Arc<Allowance> {
        Allowance::on(1, budget)
    }

    fn on(workers: usize, budget: u32) -> Arc<Allowance> {
        let budget = i32::try_from(budget).unwrap_or(i32::MAX / 2).max(1);
        Arc::new(Allowance {
            budget,
            epoch: Instant::now(),
            left: AtomicI64::new(budget.into()),
            refilled: AtomicU64::new(0),
            next: AtomicU64::new(0),
            rounds: Rounds::new(workers),
        })
    }

    pub(crate) fn budget(&self) -> i32 {
        self.budget
    }

    /// Resolves when the next turn of a task begins that has used up one: others run before, and so do those of this identity
    /// that wait already. Dropped, it gives its place in line up.
    pub fn turn(&self) -> impl Future<Output = ()> + Send + use<> {
        self.rounds.turn()
    }

    /// Spends, or gives back.
    pub(crate) fn add(&self, units: i32) {
        let most = i64::from(self.budget);
        // What is overdrawn has a bound, or it would never end.
        let add = |left: i64| Some((left + i64::from(units)).clamp(-most / 2, most));
        let _ = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    pub(crate) fn refill(&self, now: Instant) {
        let (now, fill) = (self.micros(now), FILL.as_micros() as u64);
        let before = self.refilled.load(Ordering::Relaxed);
        let elapsed = now.saturating_sub(before);
        let budget = self.budget as u64;
        // What is left of a unit isn't lost.
        let (units, until) = match elapsed / fill {
            0 => {
                let units = elapsed * budget / fill;
                (units, before + units * fill / budget)
            }
            _ => (2 * budget, now),
        };
        let claimed = units > 0
            && self
                .refilled
                .compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if claimed {
            self.add(i32::try_from(units).unwrap_or(i32::MAX));
        }
    }

    fn micros(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.epoch).as_micros() as u64
    }

    pub(crate) fn is_low(&self) -> bool {
        self.left.load(Ordering::Relaxed) < i64::from(self.budget) / LOW
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }

    /// How long the next event of a stream has to wait, if the account is low. Each call takes a place of its own.
    pub(crate) fn pace(&self, now: Instant) -> Option<Duration> {
        if !self.is_low() {
            return None;
        }
        let now = self.micros(now);
        let pace = PACE.as_micros() as u64;
        let place = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                Some(next.max(now) + pace)
            });
        let place = place.unwrap_or_default().max(now);
        Some(Duration::from_micros(place + pace - now))
    }

    fn is_full(&self) -> bool {
        self.refill(Instant::now());
        self.left.load(Ordering::Relaxed) >= self.budget.into()
    }
}

/// The accounts of all identities that have connections, or had some just now. Clones are the same.
#[derive(Clone, Debug)]
pub struct Allowances {
    budget: u32,
    workers: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    of: HashMap<Identity, Arc<Allowance>>,
    /// Looked through when there are as many.
    look_at: usize,
}

impl Default for Allowances {
    fn default() -> Allowances {
        Allowances::new(DEFAULT_BUDGET, 1)
    }
}

impl Allowances {
    /// Each connection may spend so many units at once, and each identity for its streams. So many threads serve them.
    #[must_use]
    pub fn new(budget: u32, workers: usize) -> Allowances {
        Allowances {
            budget,
            workers,
            table: Arc::default(),
        }
    }

    /// The account of this identity: a new connection of it came.
    #[must_use]
    pub fn of(&self, identity: &Identity) -> Arc<Allowance> {
        let mut table = self.table.lock();
        if let Some(known) = table.of.get(identity) {
            return known.clone();
        }
        if table.of.len() >= table.look_at {
            table.forget();
        }
        let fresh = Allowance::on(self.workers, self.budget);
        table.of.insert(identity.clone(), fresh.clone());
        fresh
    }
}

impl Table {
    /// Those without connections go: when they owe nothing, or when they are too many.
    fn forget(&mut self) {
        let mut absent = 0;
        self.of.retain(|_, allowance| {
            if Arc::strong_count(allowance) > 1 {
                return true;
            }
            absent += 1;
            absent <= ABSENT && !allowance.is_full()
        });
        self.look_at = (2 * self.of.len()).max(64);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        Identity::istio("cluster.local", "default", name).unwrap()
    }

    #[test]
    fn the_connections_of_an_identity_share_and_others_have_their_own() {
        let allowances = Allowances::new(1000, 1);
        let first = allowances.of(&identity("a"));
        let second = allowances.of(&identity("a"));
        let other = allowances.of(&identity("b"));
        first.add(-800);
        assert!(second.is_low() && !second.is_empty() && !other.is_low());
        second.add(-300);
        assert!(first.is_empty());
        // Coming back is no way out.
        drop((first, second));
        assert!(allowances.of(&identity("a")).is_empty());
    }

    #[test]
    fn time_gives_back_and_what_is_owed_is_bounded() {
        let allowance = Allowance::new(1000);
        let start = allowance.epoch;
        for _ in 0..100 {
            allowance.add(-1000);
        }
        for ms in 0..=1250 {
            assert!(allowance.is_empty(), "{ms}");
            allowance.refill(start + Duration::from_millis(ms));
        }
        assert!(!allowance.is_empty() && allowance.is_low());
        allowance.refill(start + Duration::from_secs(3600));
        assert!(!allowance.is_low());
        allowance.add(5000);
        assert_eq!(
            allowance.left.load(Ordering::Relaxed),
            1000,
            "no more than there was"
        );
    }

    #[test]
    fn whoever_waits_has_a_place_of_his_own() {
        let allowance = Allowance::new(1000);
        let now = Instant::now();
        assert_eq!(allowance.pace(now), None);
        allowance.add(-900);
        let waits: Vec<_> = (0..3).map(|_| allowance.pace(now).unwrap()).collect();
        assert_eq!(waits, [PACE, 2 * PACE, 3 * PACE]);
        let later = now + Duration::from_secs(1);
        assert_eq!(allowance.pace(later), Some(PACE), "nothing is saved up");
    }

    #[test]
    fn the_table_forgets_who_is_gone() {
        let allowances = Allowances::new(1000, 1);
        let here = allowances.of(&identity("here"));
        let owing = allowances.of(&identity("owing"));
        owing.add(-1_000_000);
        drop(owing);
        for n in 0..10_000 {
            let _ = allowances.of(&identity(&format!("n{n}")));
        }
        let table = allowances.table.lock();
        assert!(table.of.len() <= 130, "{}", table.of.len());
        assert!(table.of.contains_key(&identity("owing")));
        drop(table);
        assert!(Arc::ptr_eq(&here, &allowances.of(&identity("here"))));
        // Those that owe are bounded as well.
        for n in 0..3 * ABSENT {
            allowances.of(&identity(&format!("m{n}"))).add(-1_000_000);
        }
        assert!(allowances.table.lock().of.len() <= 2 * ABSENT + 200);
    }
}
