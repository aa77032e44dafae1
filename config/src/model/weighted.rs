//! A choice by weight.

/// Things of which each is chosen as often as its weight says. Those without one are left out; there is always one.
#[derive(Debug)]
pub struct Weighted<T> {
    /// All but the last, each with the sum of weights up to and with its own.
    others: Box<[(u64, T)]>,
    last: T,
    total: u64,
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
            others: others.into(),
            last,
            total,
        })
    }

    /// What a random number falls on.
    pub fn choose(&self, random: u64) -> &T {
        let point = random % self.total.max(1);
        let found = self.others.iter().find(|(until, _)| point < *until);
        found.map_or(&self.last, |(_, thing)| thing)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let others = self.others.iter().map(|(_, thing)| thing);
        others.chain(std::iter::once(&self.last))
    }

    /// The sum of all weights.
    pub(crate) fn total(&self) -> u64 {
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
}
