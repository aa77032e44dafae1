//! Random choice, evenly or by share.

use std::sync::Arc;

use crate::model::endpoint::Endpoint;

/// One of them, by weight where weights differ.
pub(crate) fn choose<'a>(
    endpoints: &'a [Arc<Endpoint>],
    equal_weights: bool,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    if equal_weights {
        return evenly(endpoints, random);
    }
    by_share(endpoints, weight, random)
}

pub(crate) fn weight(endpoint: &Endpoint) -> u64 {
    u64::from(endpoint.weight.max(1))
}

pub(crate) fn evenly<'a>(
    endpoints: &'a [Arc<Endpoint>],
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    endpoints.get((random() % endpoints.len().max(1) as u64) as usize)
}

pub(crate) fn by_share<'a>(
    endpoints: &'a [Arc<Endpoint>],
    share: impl Fn(&Endpoint) -> u64,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    let total = endpoints
        .iter()
        .fold(0u64, |sum, e| sum.saturating_add(share(e)));
    let mut point = random() % total.max(1);
    let chosen = endpoints.iter().find(|e| {
        let share = share(e);
        let found = point < share;
        point = point.saturating_sub(share);
        found
    });
    // Shares may shrink meanwhile: requests begin and end.
    chosen.or(endpoints.last())
}

/// Of so few, all are looked at.
const FEW: usize = 32;
/// What it may cost to find none that is taken: this part of looking at all.
const TRIES: usize = 8;

/// As [`by_share`], where no share is larger than `most`: one is drawn evenly, and taken as often as its share is of `most`. The
/// shares are the same, and of many endpoints a few are looked at.
pub(crate) fn by_share_up_to<'a>(
    endpoints: &'a [Arc<Endpoint>],
    most: u64,
    share: impl Fn(&Endpoint) -> u64,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    if endpoints.len() > FEW {
        for _ in 0..endpoints.len() / TRIES {
            let drawn = evenly(endpoints, random)?;
            if random() % most.max(1) < share(drawn) {
                return Some(drawn);
            }
        }
    }
    by_share(endpoints, share, random)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn shares_are_the_same_and_few_of_many_are_looked_at() {
        const MOST: u64 = 1000;
        let endpoints: Vec<_> = (0..1000).map(Endpoint::on_port).map(Arc::new).collect();
        let mut rng = fastrand::Rng::with_seed(7);
        // A fifth has all, a fifth a hundredth, and so on.
        for (parts, at_most) in [([1000, 500, 100, 10, 10], 20), ([30, 20, 10, 5, 1], 700)] {
            let looked = Cell::new(0);
            let share = |endpoint: &Endpoint| {
                looked.set(looked.get() + 1);
                parts[usize::from(endpoint.address.port() % 5)]
            };
            let mut chosen = [0_u64; 5];
            const DRAWS: u64 = 10_000;
            for _ in 0..DRAWS {
                let one = by_share_up_to(&endpoints, MOST, share, &mut || rng.u64(..));
                chosen[usize::from(one.unwrap().address.port() % 5)] += 1;
            }
            let all: u64 = parts.iter().sum();
            for (chosen, part) in chosen.into_iter().zip(parts) {
                let expected = DRAWS * part / all;
                let off = 60 + expected / 15;
                assert!(chosen.abs_diff(expected) < off, "{chosen}, not {expected}");
            }
            let looked = looked.get() / DRAWS;
            assert!(looked <= at_most, "{looked} a draw");
        }
    }
}
