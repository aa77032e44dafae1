//! A choice by weight, and what it came to.

use std::sync::atomic::{AtomicU64, Ordering};

/// Things of which each is chosen as often as its weight says. Those without one are left out; there is always one.
#[derive(Debug)]
pub struct Weighted<T> {
    /// All but the last, each with the sum of weights up to and with its own.
    others: Box<[(u64, T)]>,
    last: T,
    total: u64,
    /// How often each was taken, in the same order.
    taken: Box<[AtomicU64]>,
}

impl<T> Weighted<T> {
    /// `None`: nothing has a weight.
    pub(crate) fn new(things: impl IntoIterator<Item = (u32, T)>) -> Option<Weighted<T>> {
        let mut total = 0;
        let things = things.into_iter().filter(|(weight, _)| *weight > 0);
        let mut others: Vec<(u64, T)> = things
            .map(|(weight, thing)| {
                total += u64::from(weight);
                (total, thing)
            })
            .collect();
        let (_, last) = others.pop()?;
        Some(Weighted {
            taken: (0..=others.len()).map(|_| AtomicU64::new(0)).collect(),
            others: others.into(),
            last,
            total,
        })
    }

    /// What a random number falls on.
    pub fn choose(&self, random: u64) -> &T {
        self.at(random).1
    }

    /// The same for traffic: it is counted.
    pub fn take(&self, random: u64) -> &T {
        let (place, thing) = self.at(random);
        if let Some(taken) = self.taken.get(place) {
            taken.fetch_add(1, Ordering::Relaxed);
        }
        thing
    }

    /// Counts what traffic took by another way than by weight: the first that `is` it.
    pub fn count(&self, is: impl Fn(&T) -> bool) {
        let taken = self.iter().position(is);
        if let Some(taken) = taken.and_then(|place| self.taken.get(place)) {
            taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn at(&self, random: u64) -> (usize, &T) {
        let point = random % self.total.max(1);
        let mut others = self.others.iter().enumerate();
        let found = others.find(|(_, (until, _))| point < *until);
        let last = (self.others.len(), &self.last);
        found.map_or(last, |(place, (_, thing))| (place, thing))
    }

    /// How often each was taken, in the order of [`weights`](Weighted::weights).
    pub fn taken(&self) -> impl Iterator<Item = u64> {
        self.taken.iter().map(|taken| taken.load(Ordering::Relaxed))
    }

    /// Each with its weight.
    pub fn weights(&self) -> impl Iterator<Item = (u64, &T)> {
        let mut before = 0;
        let others = self.others.iter().map(|(until, thing)| (*until, thing));
        let all = others.chain(std::iter::once((self.total, &self.last)));
        all.map(move |(until, thing)| (until - std::mem::replace(&mut before, until), thing))
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let others = self.others.iter().map(|(_, thing)| thing);
        others.chain(std::iter::once(&self.last))
    }

    /// The sum of all weights.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_is_chosen_as_often_as_its_weight_says() {
        let weighted = Weighted::new([(0, "never"), (2, "two"), (0, "never"), (1, "one")]).unwrap();
        let chosen: Vec<&str> = (0..6).map(|random| *weighted.choose(random)).collect();
        assert_eq!(chosen, ["two", "two", "one", "two", "two", "one"]);
        assert_eq!(weighted.iter().copied().collect::<Vec<_>>(), ["two", "one"]);
        assert!(Weighted::new([(0, "never")]).is_none());
    }

    #[test]
    fn what_is_taken_is_counted_and_what_is_only_asked_is_not() {
        let weighted = Weighted::new([(3, "three"), (1, "one")]).unwrap();
        for random in 0..8 {
            assert_eq!(weighted.choose(random), weighted.take(random));
        }
        weighted.count(|thing| *thing == "one");
        weighted.count(|thing| *thing == "two");
        assert_eq!(weighted.taken().collect::<Vec<_>>(), [6, 3]);
    }
}
