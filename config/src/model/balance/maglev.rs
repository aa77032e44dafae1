//! Maglev (`MAGLEV`): a table of fixed size that endpoints fill in turn, each in an order of its own.
//!
//! "Maglev: A Fast and Reliable Software Network Load Balancer" (2016), section 3.4, with weights as Envoy has them: an endpoint takes
//! its turn in as many rounds as its weight is of the largest. Entry by entry the table is Envoy's. Rounds in
//! which an endpoint has no turn cost nothing here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use envoy_types::pb::envoy::config::cluster::v3::cluster::MaglevLbConfig;
use waypoint_filters::xds::coverage::well_known::UINT64_VALUE;
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::balance::hash_share::Share;
use crate::model::balance::xx_hash::{xx_hash, xx_hash_seeded};

/// Envoy's.
const DEFAULT_SIZE: u64 = 65_537;
const MOST: u64 = 5_000_011;

const NOBODY: u32 = u32::MAX;

pub(crate) static MAGLEV_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.MaglevLbConfig",
    fields: &[honoured(1, "table_size").of(&UINT64_VALUE)],
    refused: "",
    required: &[],
};

/// A table's size, a prime.
pub(crate) fn table_size(proto: Option<&MaglevLbConfig>) -> Result<u64, Refusal> {
    let size = proto.and_then(|p| p.table_size.as_ref());
    let size = size.map_or(DEFAULT_SIZE, |value| value.value);
    let refused = |why: String| Err(Refusal::new("maglev_lb_config.table_size", why));
    match size {
        0..=2 => refused("is too small".into()),
        3..=MOST if is_prime(size) => Ok(size),
        3..=MOST => refused(format!("{size} is no prime")),
        _ => refused(format!("is above {MOST}")),
    }
}

fn is_prime(n: u64) -> bool {
    let factors = (2..).take_while(|f| f * f <= n);
    factors.into_iter().all(|f| !n.is_multiple_of(f))
}

/// Where each hash leads to, by what is left of it.
#[derive(Debug)]
pub(crate) struct Maglev {
    entries: Box<[u32]>,
}

/// An endpoint while the table is filled.
struct Filling {
    position: u32,
    weight: f64,
    /// What its weight times the number of the round has to reach.
    target: f64,
    offset: u64,
    skip: u64,
    next: u64,
}

impl Maglev {
    pub(crate) fn new(mut shares: Vec<Share>, size: u64) -> Maglev {
        if shares.is_empty() {
            return Maglev {
                entries: Box::default(),
            };
        }
        // Who fills first has an effect.
        shares.sort_by(|a, b| a.key.cmp(&b.key));
        let largest = shares.iter().map(|s| s.weight).fold(0.0, f64::max);
        let mut filling: Vec<Filling> = shares.iter().map(|s| Filling::new(s, size)).collect();
        let turns = filling.iter().enumerate().map(|(i, _)| Reverse((1, i)));
        let mut turns: BinaryHeap<Reverse<(u64, usize)>> = turns.collect();
        let mut entries = vec![NOBODY; size as usize];
        let mut left = entries.len();
        while left > 0
            && let Some(Reverse((round, i))) = turns.pop()
            && let Some(endpoint) = filling.get_mut(i)
        {
            endpoint.target += largest;
            endpoint.take(&mut entries, size);
            left -= 1;
            turns.push(Reverse((endpoint.round_after(round), i)));
        }
        Maglev {
            entries: entries.into(),
        }
    }

    /// `None`: there is nobody.
    pub(crate) fn position(&self, hash: u64, further: u32) -> Option<u32> {
        // Another hash for each further choice.
        let hash = match further {
            0 => hash,
            further => hash ^ (u64::MAX - u64::from(further) + 1),
        };
        let entry = hash.checked_rem(self.entries.len() as u64)?;
        self.entries.get(entry as usize).copied()
    }
}

impl Filling {
    fn new(share: &Share, size: u64) -> Filling {
        let key = share.key.as_bytes();
        Filling {
            position: share.position,
            weight: share.weight,
            target: 0.0,
            offset: xx_hash(key) % size,
            skip: xx_hash_seeded(key, 1) % (size - 1) + 1,
            next: 0,
        }
    }

    /// Takes the next entry of its order that nobody has.
    fn take(&mut self, entries: &mut [u32], size: u64) {
        // A prime and a skip below it lead to every entry once.
        for _ in 0..size {
            let at = (self.offset + self.skip * self.next) % size;
            self.next += 1;
            if let Some(entry) = entries.get_mut(at as usize)
                && *entry == NOBODY
            {
                *entry = self.position;
                return;
            }
        }
    }

    /// The next round in which it has a turn.
    fn round_after(&self, round: u64) -> u64 {
        let mut next = (round + 1).max((self.target / self.weight).floor() as u64);
        // What the division has rounded.
        while (next as f64) * self.weight < self.target {
            next += 1;
        }
        next
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::google::protobuf::UInt64Value;

    use super::*;
    use crate::model::balance::hash_share::tests::{moved_when_one_leaves, spread, weighing};

    /// The same as the paper has it: every round asks every endpoint.
    fn round_by_round(mut shares: Vec<Share>, size: u64) -> Vec<u32> {
        shares.sort_by(|a, b| a.key.cmp(&b.key));
        let largest = shares.iter().map(|s| s.weight).fold(0.0, f64::max);
        let mut filling: Vec<Filling> = shares.iter().map(|s| Filling::new(s, size)).collect();
        let mut entries = vec![NOBODY; size as usize];
        let mut left = size;
        for round in 1.. {
            for endpoint in &mut filling {
                if left == 0 {
                    return entries;
                }
                if f64::from(round) * endpoint.weight < endpoint.target {
                    continue;
                }
                endpoint.target += largest;
                endpoint.take(&mut entries, size);
                left -= 1;
            }
        }
        unreachable!()
    }

    #[test]
    fn skipping_rounds_without_a_turn_changes_nothing() {
        for weights in [
            vec![1],
            vec![1, 1, 1],
            vec![1, 2, 3],
            vec![100, 1, 7, 33, 3],
            vec![1, 1000],
            (1..50).collect(),
        ] {
            let maglev = Maglev::new(weighing(&weights), 1009);
            let expected = round_by_round(weighing(&weights), 1009);
            assert_eq!(*maglev.entries, expected, "{weights:?}");
        }
    }

    #[test]
    fn keys_are_spread_by_weight_and_further_choices_lead_elsewhere() {
        let maglev = Maglev::new(weighing(&[1, 3, 1, 1]), DEFAULT_SIZE);
        let spread = spread(4, 12_000, |hash| maglev.position(hash, 0));
        assert!((5800..6200).contains(&spread[1]), "{spread:?}");
        let others = (0..100).filter(|hash| maglev.position(*hash, 0) != maglev.position(*hash, 1));
        assert!(others.count() > 20);
        let none = Maglev::new(Vec::new(), DEFAULT_SIZE);
        assert_eq!(none.position(7, 0), None);
    }

    #[test]
    fn keys_of_those_that_stay_stay() {
        let shares = weighing(&[1; 8]);
        let mut left = shares.clone();
        left.remove(4);
        left.iter_mut().for_each(|share| share.weight = 1.0 / 7.0);
        let before = Maglev::new(shares, DEFAULT_SIZE);
        let after = Maglev::new(left, DEFAULT_SIZE);
        let moved = moved_when_one_leaves(
            8,
            |hash| before.position(hash, 0),
            |hash| after.position(hash, 0),
        );
        assert!(moved < 60, "{moved} of 1000");
    }

    #[test]
    fn sizes_are_primes_with_a_bound() {
        let of = |value| {
            table_size(Some(&MaglevLbConfig {
                table_size: Some(UInt64Value { value }),
            }))
        };
        assert_eq!(table_size(None).unwrap(), DEFAULT_SIZE);
        assert_eq!(of(3).unwrap(), 3);
        assert_eq!(of(MOST).unwrap(), MOST);
        for refused in [0, 1, 2, 4, 1024, 65_536, MOST + 2, u64::MAX] {
            assert!(of(refused).is_err(), "{refused}");
        }
    }
}
