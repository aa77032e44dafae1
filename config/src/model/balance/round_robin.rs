//! Round robin: one after the other, without a lock and without a draw.
//!
//! With unequal weights the turns of an endpoint are spread evenly over a round, as in Envoy's scheduler: an endpoint of weight 3
//! beside one of 1 isn't asked three times in a row. Turns are counted by one number: which endpoint has a turn, and
//! whether it takes it, follows from that alone. An endpoint takes as many of [`ROUND`] turns as its weight is of the
//! largest, each as soon as the sum of what it is due passes a whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::endpoint::Endpoint;

/// What the largest weight becomes.
const ROUND: u64 = 1 << 16;

/// Whose turn it is among some endpoints.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    /// 0: none yet. The first one is drawn, or every new set of endpoints would begin with the same.
    turn: AtomicU64,
    /// Of [`ROUND`], how many turns each takes. Empty: all of them.
    takes: Box<[u32]>,
}

impl Rotation {
    pub(crate) fn new(endpoints: &[Arc<Endpoint>], equal_weights: bool) -> Rotation {
        let weight = |e: &Endpoint| u64::from(e.weight.max(1));
        let largest = endpoints.iter().map(|e| weight(e)).max().unwrap_or(1);
        let takes = |e: &Arc<Endpoint>| (weight(e) * ROUND / largest).max(1) as u32;
        Rotation {
            turn: AtomicU64::new(0),
            takes: match equal_weights {
                true => Box::default(),
                false => endpoints.iter().map(takes).collect(),
            },
        }
    }

    /// The next one of those that the rotation was made for.
    pub(crate) fn next<'a>(
        &self,
        endpoints: &'a [Arc<Endpoint>],
        random: &mut impl FnMut() -> u64,
    ) -> Option<&'a Arc<Endpoint>> {
        let count = endpoints.len() as u64;
        if self.turn.load(Ordering::Relaxed) == 0 {
            let first = 1 + random() % count.max(1);
            let _ = self
                .turn
                .compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed);
        }
        // Whoever has the largest weight takes every turn: there are at most as many as endpoints.
        for _ in 0..=count {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let index = turn.checked_rem(count)?;
            let round = turn / count;
            let takes = self.takes.get(index as usize).copied();
            if takes.is_none_or(|takes| is_due(round, index, u64::from(takes))) {
                return endpoints.get(index as usize);
            }
        }
        endpoints.first()
    }
}

/// Whether the sum of what an endpoint is due passes a whole in this round. Endpoints begin at different points, so that
/// those of the same weight don't all take their turns in the same round.
fn is_due(round: u64, index: u64, takes: u64) -> bool {
    let begin = index.wrapping_mul(ROUND / 2 + 1) % ROUND;
    let due = round.wrapping_mul(takes).wrapping_add(begin) % ROUND;
    due + takes >= ROUND
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn endpoints(weights: &[u32]) -> Vec<Arc<Endpoint>> {
        let ports = 1..;
        let endpoint = |(port, weight): (u16, &u32)| {
            Arc::new(Endpoint {
                weight: *weight,
                ..Endpoint::on_port(port)
            })
        };
        ports.zip(weights).map(endpoint).collect()
    }

    fn turns(weights: &[u32], seed: u64, count: usize) -> Vec<u16> {
        let endpoints = endpoints(weights);
        let equal = weights.iter().all(|w| *w == weights[0]);
        let rotation = Rotation::new(&endpoints, equal);
        let next = || rotation.next(&endpoints, &mut || seed);
        let ports = std::iter::repeat_with(next).map(|e| e.unwrap().address.port());
        ports.take(count).collect()
    }

    #[test]
    fn equals_take_turns_from_a_random_one_on() {
        assert_eq!(turns(&[1, 1, 1], 0, 7), [2, 3, 1, 2, 3, 1, 2]);
        assert_eq!(turns(&[5, 5, 5], 1, 4), [3, 1, 2, 3]);
        assert_eq!(turns(&[1], 9, 3), [1, 1, 1]);
        let none = Rotation::new(&[], true);
        assert!(none.next(&[], &mut || 3).is_none());
    }

    #[test]
    fn each_gets_what_it_weighs_and_no_two_rounds_at_once() {
        for weights in [
            vec![1, 3],
            vec![1, 1, 2],
            vec![7, 2, 1],
            vec![100, 1],
            vec![5, 1, 1, 1, 1, 1],
            vec![u32::MAX, u32::MAX / 2],
        ] {
            let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            let count = 20_000;
            let taken = turns(&weights, 0, count);
            let mut shares: BTreeMap<u16, usize> = BTreeMap::new();
            for port in &taken {
                *shares.entry(*port).or_default() += 1;
            }
            for (port, weight) in (1..).zip(&weights) {
                let expected = count as f64 * f64::from(*weight) / sum as f64;
                let share = shares.get(&port).copied().unwrap_or(0) as f64;
                assert!(
                    (share - expected).abs() <= 0.01 * count as f64,
                    "{weights:?}: {shares:?}"
                );
            }
        }
        // A smaller one doesn't wait longer than its weight says, and the larger one isn't asked more often at a time.
        let taken = turns(&[1, 3], 0, 400);
        let longest = taken.split(|port| *port == 1).map(<[u16]>::len).max();
        assert_eq!(longest, Some(3));
    }

    #[test]
    fn threads_share_the_turns() {
        let endpoints = endpoints(&[1, 1, 1, 1]);
        let rotation = Rotation::new(&endpoints, true);
        let counts = std::thread::scope(|scope| {
            let threads = [0; 4].map(|_| {
                scope.spawn(|| {
                    let mut counts = [0; 4];
                    for _ in 0..1000 {
                        let chosen = rotation.next(&endpoints, &mut || 0).unwrap();
                        counts[usize::from(chosen.address.port()) - 1] += 1;
                    }
                    counts
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        for port in 0..4 {
            let sum: i32 = counts.iter().map(|counts| counts[port]).sum();
            assert_eq!(sum, 1000);
        }
    }
}
