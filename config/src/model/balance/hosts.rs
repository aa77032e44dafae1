//! A set's endpoints as a balancer looks at them: what each priority and locality takes of the load.
//!
//! Shares are Envoy's. A priority, and a locality within it, takes 1.4 times its share of healthy endpoints
//! (`overprovisioning_factor`, 140 if an assignment doesn't say otherwise), at most all of its load; what priority 0 can't take spills to the next.
//! All of this depends on the set alone and is computed once for it. Nothing here draws; whose turn it is (round robin) is kept
//! beside the endpoints that take turns.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::balance::consistent_hash::HashTable;
use crate::model::balance::policy::Balancing;
use crate::model::balance::round_robin::Rotation;
use crate::model::endpoint::{Endpoint, Locality};

/// Healthy endpoints take this percent of what would be their share if all were healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overprovisioning(pub(crate) u32);

impl Default for Overprovisioning {
    /// Envoy's.
    fn default() -> Overprovisioning {
        Overprovisioning(140)
    }
}

/// The whole availability of a locality, in fine enough parts that a weight of 1 can be split.
const WHOLE: u64 = 1 << 16;

/// The endpoints of a set, by priority.
#[derive(Debug, Default)]
pub struct Hosts {
    priorities: Box<[PriorityHosts]>,
    /// Whether healthy endpoints take all of the load.
    enough: bool,
    /// When the newest endpoint came.
    newest: Option<Instant>,
    /// By priority, percent of the load: as healthy endpoints take it.
    loads: Box<[u64]>,
    /// The same where every priority panics: by the number of endpoints.
    panic_loads: Box<[u64]>,
}

/// The endpoints of one priority.
#[derive(Debug)]
pub struct PriorityHosts {
    /// Percent of the load that it takes.
    health: u64,
    all: Box<[Arc<Endpoint>]>,
    all_equal: bool,
    all_turns: Rotation,
    /// Locality by locality.
    healthy: Box<[Arc<Endpoint>]>,
    healthy_equal: bool,
    healthy_turns: Rotation,
    localities: Box<[LocalityShare]>,
    /// Where the policy hashes.
    table: Option<HashTable>,
}

/// A locality that gets something where localities are chosen by weight.
#[derive(Debug)]
struct LocalityShare {
    /// The sum of the shares up to and with this one.
    until: u64,
    /// Its part of the healthy endpoints.
    healthy: Range<usize>,
    equal: bool,
    turns: Rotation,
}

/// Endpoints among which a policy chooses.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    pub endpoints: &'a [Arc<Endpoint>],
    /// Whether they all have the same weight.
    pub equal_weights: bool,
    /// Whose turn it is among them.
    pub(crate) rotation: &'a Rotation,
}

impl Hosts {
    pub(crate) fn new(priorities: &[Vec<Locality>], factor: Overprovisioning) -> Hosts {
        let priority = |localities: &Vec<Locality>| PriorityHosts::new(localities, factor);
        let priorities: Box<[_]> = priorities.iter().map(priority).collect();
        let health: Vec<u64> = priorities.iter().map(|p| p.health).collect();
        let available = health.iter().sum::<u64>().min(100);
        let counts: Vec<u64> = priorities.iter().map(|p| p.all.len() as u64).collect();
        Hosts {
            enough: available == 100,
            newest: priorities
                .iter()
                .flat_map(|p| &p.all)
                .map(|e| e.state.since)
                .max(),
            loads: loads(&health, available),
            panic_loads: loads(&counts, counts.iter().sum()),
            priorities,
        }
    }

    /// For a policy that hashes.
    pub(crate) fn with_tables(
        priorities: &[Vec<Locality>],
        factor: Overprovisioning,
        balancing: &Balancing,
    ) -> Hosts {
        let mut hosts = Hosts::new(priorities, factor);
        let threshold = balancing.panic_threshold;
        let panic: Vec<bool> = hosts
            .priorities
            .iter()
            .map(|priority| hosts.panics(priority, threshold))
            .collect();
        let of = hosts.priorities.iter_mut().zip(priorities).zip(panic);
        for ((priority, localities), panics) in of {
            priority.table = HashTable::new(localities, panics, balancing);
        }
        hosts
    }

    /// Whether an endpoint came less than `window` ago.
    pub(crate) fn has_newer_than(&self, window: Duration, now: Instant) -> bool {
        let age = |since| now.saturating_duration_since(since);
        self.newest.is_some_and(|since| age(since) < window)
    }

    /// While healthy endpoints take everything nothing panics, however few a priority has.
    fn panics(&self, priority: &PriorityHosts, threshold: f64) -> bool {
        !self.enough && priority.healthy_percent() < threshold
    }

    /// The priority on which `point` falls, and whether it panics: uses all that it has, because fewer percent
    /// than `panic_threshold` are healthy. `None`: there is nothing to use.
    pub fn priority(
        &self,
        panic_threshold: f64,
        point: u64,
        left_out: &[bool],
    ) -> Option<(&PriorityHosts, bool)> {
        let panics = |hosts: &PriorityHosts| self.panics(hosts, panic_threshold);
        let without = self.loads_without(left_out);
        let loads = match &without {
            Some(without) => without,
            None if self.priorities.iter().all(panics) => &self.panic_loads,
            None => &self.loads,
        };
        let mut point = point % 100;
        for (hosts, load) in self.priorities.iter().zip(loads) {
            if point < *load {
                return Some((hosts, panics(hosts)));
            }
            point -= load;
        }
        None
    }
}

impl Hosts {
    /// Percent of the load that priorities take which aren't left out.
    pub(crate) fn available_without(&self, left_out: &[bool]) -> u64 {
        let available = self.health_without(left_out).sum::<u64>();
        available.min(100)
    }

    fn health_without(&self, left_out: &[bool]) -> impl Iterator<Item = u64> {
        let left_out = left_out.iter().copied().chain(std::iter::repeat(false));
        let priorities = self.priorities.iter().zip(left_out);
        priorities.map(|(priority, left_out)| match left_out {
            true => 0,
            false => priority.health,
        })
    }

    /// How load is shared without some priorities; `None`: none is left out, or nothing would be left.
    fn loads_without(&self, left_out: &[bool]) -> Option<Box<[u64]>> {
        if left_out.is_empty() {
            return None;
        }
        let available = self.available_without(left_out);
        let health: Vec<u64> = self.health_without(left_out).collect();
        (available > 0).then(|| loads(&health, available))
    }

    /// The priority in which there is an endpoint at this address.
    pub(crate) fn priority_of(&self, address: SocketAddr) -> Option<usize> {
        let has = |priority: &PriorityHosts| priority.all.iter().any(|e| e.address == address);
        self.priorities.iter().position(has)
    }
}

/// Percent of the load, the first first, until nothing is left. What rounding leaves is the first one's.
fn loads(available: &[u64], total: u64) -> Box<[u64]> {
    let mut left = 100;
    let mut loads = Vec::with_capacity(available.len());
    for available in available {
        let load = ratio(100 * available, total).min(left);
        left -= load;
        loads.push(load);
    }
    let first = available.iter().position(|available| *available > 0);
    if let Some(first) = first.and_then(|first| loads.get_mut(first)) {
        *first += left;
    }
    loads.into()
}

fn ratio(part: u64, whole: u64) -> u64 {
    part.checked_div(whole).unwrap_or(0)
}

impl PriorityHosts {
    fn new(localities: &[Locality], factor: Overprovisioning) -> PriorityHosts {
        let endpoints = localities.iter().flat_map(|l| &l.endpoints);
        let all: Box<[_]> = endpoints.cloned().collect();
        let mut healthy = Vec::with_capacity(all.len());
        let mut shares = Vec::new();
        let mut until: u64 = 0;
        for locality in localities {
            let first = healthy.len();
            healthy.extend(
                locality
                    .endpoints
                    .iter()
                    .filter(|e| e.is_healthy())
                    .cloned(),
            );
            let own = healthy.get(first..).unwrap_or_default();
            let share = share(locality.weight, own.len(), locality.endpoints.len(), factor);
            if share > 0 {
                until = until.saturating_add(share);
                let equal = equal_weights(own);
                shares.push(LocalityShare {
                    until,
                    healthy: first..healthy.len(),
                    equal,
                    turns: Rotation::new(own, equal),
                });
            }
        }
        let (all_equal, healthy_equal) = (equal_weights(&all), equal_weights(&healthy));
        let taken = u64::from(factor.0) * healthy.len() as u64;
        PriorityHosts {
            health: ratio(taken, all.len() as u64).min(100),
            all_equal,
            all_turns: Rotation::new(&all, all_equal),
            all,
            healthy_equal,
            healthy_turns: Rotation::new(&healthy, healthy_equal),
            healthy: healthy.into(),
            localities: shares.into(),
            table: None,
        }
    }

    fn healthy_percent(&self) -> f64 {
        self.healthy.len() as f64 * 100.0 / self.all.len().max(1) as f64
    }

    /// Where a hash leads to, at the first choice or a further one.
    pub(crate) fn by_hash(&self, hash: u64, further: u32) -> Option<&Arc<Endpoint>> {
        self.table.as_ref()?.choose(&self.all, hash, further)
    }

    pub(crate) fn has_table(&self) -> bool {
        self.table.is_some()
    }

    pub fn all(&self) -> Candidates<'_> {
        Candidates {
            endpoints: &self.all,
            equal_weights: self.all_equal,
            rotation: &self.all_turns,
        }
    }

    pub fn healthy(&self) -> Candidates<'_> {
        Candidates {
            endpoints: &self.healthy,
            equal_weights: self.healthy_equal,
            rotation: &self.healthy_turns,
        }
    }

    /// The healthy ones of the locality on which `point` falls, by weight and availability; of all localities
    /// where none has both, as in Envoy.
    pub fn healthy_of_locality(&self, point: u64) -> Candidates<'_> {
        let total = self.localities.last().map_or(1, |last| last.until);
        let index = self
            .localities
            .partition_point(|l| l.until <= point % total);
        let found = self.localities.get(index).and_then(|locality| {
            Some(Candidates {
                endpoints: self.healthy.get(locality.healthy.clone())?,
                equal_weights: locality.equal,
                rotation: &locality.turns,
            })
        });
        found.unwrap_or_else(|| self.healthy())
    }
}

/// A locality's weight, times how much of its load its healthy endpoints take.
fn share(weight: u32, healthy: usize, all: usize, factor: Overprovisioning) -> u64 {
    let taken = (u64::from(factor.0) * WHOLE).saturating_mul(healthy as u64);
    u64::from(weight) * ratio(taken, 100 * all as u64).min(WHOLE)
}

fn equal_weights(endpoints: &[Arc<Endpoint>]) -> bool {
    endpoints.windows(2).all(|w| match w {
        [a, b] => a.weight == b.weight,
        _ => true,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// A locality whose endpoints have ports from `port` on, the healthy ones first.
    fn locality(port: u16, weight: u32, healthy: u16, all: u16) -> Locality {
        let endpoint = |i: u16| {
            Arc::new(Endpoint {
                healthy: i < healthy,
                ..Endpoint::on_port(port + i)
            })
        };
        Locality {
            weight,
            endpoints: (0..all).map(endpoint).collect(),
            ..Locality::default()
        }
    }

    /// Percent by the hundred of the port: every point counts once.
    fn priorities(hosts: &Hosts, panic_threshold: f64) -> BTreeMap<u16, (usize, bool)> {
        let mut found = BTreeMap::new();
        for point in 0..100 {
            let (priority, panics) = hosts.priority(panic_threshold, point, &[]).unwrap();
            let hundred = priority.all[0].address.port() / 100;
            let (count, panicked) = found.entry(hundred).or_insert((0, panics));
            *count += 1;
            assert_eq!(*panicked, panics);
        }
        found
    }

    pub(crate) fn of(health: &[(u16, u16)]) -> Hosts {
        let priorities = (1..).zip(health);
        let priorities =
            priorities.map(|(i, (healthy, all))| vec![locality(100 * i, 1, *healthy, *all)]);
        Hosts::new(&priorities.collect::<Vec<_>>(), Overprovisioning::default())
    }

    #[test]
    fn an_assignment_may_say_how_much_healthy_endpoints_take() {
        for (factor, loads) in [(100, [50, 50]), (140, [70, 30]), (200, [100, 0])] {
            let half = vec![locality(100, 1, 5, 10)];
            let whole = vec![locality(200, 1, 10, 10)];
            let hosts = Hosts::new(&[half, whole], Overprovisioning(factor));
            assert_eq!(*hosts.loads, loads, "{factor}");
        }
    }

    #[test]
    fn priorities_spill_as_in_envoys_documentation() {
        let cases = [
            (vec![(100, 100), (100, 100)], vec![100, 0]),
            (vec![(72, 100), (72, 100)], vec![100, 0]),
            (vec![(71, 100), (71, 100)], vec![99, 1]),
            (vec![(50, 100), (50, 100)], vec![70, 30]),
            (vec![(25, 100), (100, 100)], vec![35, 65]),
            (vec![(25, 100), (25, 100)], vec![50, 50]),
            (vec![(5, 100), (10, 100), (10, 100)], vec![20, 40, 40]),
            (vec![(0, 0), (0, 10), (3, 10)], vec![0, 0, 100]),
        ];
        for (health, loads) in cases {
            assert_eq!(*of(&health).loads, loads, "{health:?}");
        }
    }

    #[test]
    fn a_priority_panics_below_the_threshold_unless_others_take_the_load() {
        // 35 + 42 of 100: not enough; the first has fewer than 30 %.
        let short = of(&[(25, 100), (30, 100)]);
        assert_eq!(
            priorities(&short, 30.0),
            BTreeMap::from([(1, (46, true)), (2, (54, false))])
        );
        assert_eq!(
            priorities(&short, 0.0),
            BTreeMap::from([(1, (46, false)), (2, (54, false))])
        );
        // Every one below: by the number of endpoints.
        let all = of(&[(1, 10), (3, 30)]);
        assert_eq!(
            priorities(&all, 50.0),
            BTreeMap::from([(1, (25, true)), (2, (75, true))])
        );
        // The second takes it all.
        let enough = of(&[(1, 10), (9, 10)]);
        assert_eq!(
            priorities(&enough, 50.0),
            BTreeMap::from([(1, (14, false)), (2, (86, false))])
        );
    }

    #[test]
    fn nothing_healthy_is_nothing_without_panic_and_everything_with_it() {
        let none = of(&[(0, 2), (0, 6)]);
        assert!(none.priority(0.0, 7, &[]).is_none());
        assert_eq!(
            priorities(&none, 1.0),
            BTreeMap::from([(1, (25, true)), (2, (75, true))])
        );
        assert!(
            Hosts::new(&[], Overprovisioning::default())
                .priority(50.0, 7, &[])
                .is_none()
        );
        assert!(of(&[(0, 0)]).priority(50.0, 7, &[]).is_none());
    }

    /// Draws by the hundred of the port, in percent.
    fn localities(hosts: &Hosts) -> BTreeMap<u16, usize> {
        let mut found = BTreeMap::new();
        for n in 0..100_000u64 {
            // Evenly spread: multiples of the golden ratio.
            let point = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let candidates = hosts.priorities[0].healthy_of_locality(point);
            assert!(candidates.endpoints.iter().all(|e| e.healthy));
            let hundreds = candidates.endpoints.iter().map(|e| e.address.port() / 100);
            for hundred in hundreds.collect::<BTreeSet<_>>() {
                *found.entry(hundred).or_insert(0) += 1;
            }
        }
        found
            .into_iter()
            .map(|(k, n)| (k, (n + 500) / 1000))
            .collect()
    }

    #[test]
    fn localities_share_by_weight_and_availability() {
        let cases = [
            // By weight, not by the number of endpoints.
            (vec![(3, 1, 1), (1, 9, 9)], vec![(1, 75), (2, 25)]),
            // 72 % healthy take all.
            (vec![(3, 72, 100), (1, 1, 1)], vec![(1, 75), (2, 25)]),
            // 1.4 times a half: 2.1 to 1.
            (vec![(3, 5, 10), (1, 1, 1)], vec![(1, 68), (2, 32)]),
            (vec![(3, 0, 10), (1, 1, 1)], vec![(2, 100)]),
            (vec![(3, 0, 0), (1, 1, 1)], vec![(2, 100)]),
            (vec![(0, 5, 5), (1, 1, 1)], vec![(2, 100)]),
            // Everybody's weight at its largest.
            (
                vec![(u32::MAX, 1, 1), (u32::MAX, 1, 1)],
                vec![(1, 50), (2, 50)],
            ),
            // No weight at all: one set.
            (vec![(0, 5, 5), (0, 1, 1)], vec![(1, 100), (2, 100)]),
        ];
        for (given, shares) in cases {
            let zip = (1..).zip(&given);
            let set =
                zip.map(|(i, (weight, healthy, all))| locality(100 * i, *weight, *healthy, *all));
            let hosts = Hosts::new(&[set.collect()], Overprovisioning::default());
            assert_eq!(localities(&hosts), BTreeMap::from_iter(shares), "{given:?}");
        }
    }
}
