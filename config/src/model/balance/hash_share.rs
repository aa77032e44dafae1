//! What each endpoint takes of a table of hashes.

use crate::model::endpoint::{Endpoint, Locality};

/// An endpoint, and its part of the table.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    /// What is hashed of the endpoint.
    pub(crate) key: String,
    /// Its position among the endpoints of its priority.
    pub(crate) position: u32,
    /// All together are 1.
    pub(crate) weight: f64,
}

/// What each endpoint takes: its part of its locality, and of what that weighs.
pub(crate) fn shares(localities: &[Locality], panics: bool, by_locality: bool) -> Vec<Share> {
    let usable = |e: &Endpoint| panics || e.is_healthy();
    let weight = |e: &Endpoint| u64::from(e.weight.max(1));
    let sum_of = |l: &Locality| -> u64 {
        let usable = l.endpoints.iter().filter(|e| usable(e));
        usable.map(|e| weight(e)).sum()
    };
    let all: u64 = localities.iter().map(sum_of).sum();
    let places: u64 = localities.iter().map(|l| u64::from(l.weight)).sum();
    let mut shares = Vec::new();
    let mut position = 0;
    for locality in localities {
        // Where no locality has a weight there is nothing to use, as in Envoy.
        let (part, whole) = match by_locality {
            true => (
                f64::from(locality.weight) / places.max(1) as f64,
                sum_of(locality),
            ),
            false => (1.0, all),
        };
        for endpoint in &locality.endpoints {
            if part > 0.0 && usable(endpoint) {
                shares.push(Share {
                    key: endpoint.hash_key(),
                    position,
                    weight: weight(endpoint) as f64 * part / whole as f64,
                });
            }
            position += 1;
        }
    }
    shares
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// Endpoints with consecutive ports and these weights.
    pub(crate) fn weighing(weights: &[u32]) -> Vec<Share> {
        let sum: u32 = weights.iter().sum();
        let shares = (0..).zip(weights).map(|(position, weight)| Share {
            key: format!("10.0.0.1:{}", 8000 + position),
            position,
            weight: f64::from(*weight) / f64::from(sum),
        });
        shares.collect()
    }

    /// Hashes as keys have them: spread over all values.
    pub(crate) fn hashes(count: u64) -> impl Iterator<Item = u64> {
        let hash = |n: u64| crate::model::balance::xx_hash::xx_hash(&n.to_le_bytes());
        (0..count).map(hash)
    }

    /// How many of the hashes lead to each position.
    pub(crate) fn spread(
        count: usize,
        hashes: u64,
        position: impl Fn(u64) -> Option<u32>,
    ) -> Vec<u64> {
        let mut found = vec![0; count];
        for hash in self::hashes(hashes) {
            found[position(hash).unwrap() as usize] += 1;
        }
        found
    }

    /// One endpoint of `count` leaves: how many in a thousand keys move of those that didn't lead there, and whether all
    /// that did found another.
    pub(crate) fn moved_when_one_leaves(
        count: usize,
        before: impl Fn(u64) -> Option<u32>,
        after: impl Fn(u64) -> Option<u32>,
    ) -> u64 {
        let gone = count as u32 / 2;
        let (mut stayed, mut moved) = (0, 0);
        for hash in hashes(20_000) {
            let (before, after) = (before(hash).unwrap(), after(hash).unwrap());
            assert_ne!(after, gone);
            if before != gone {
                *(if before == after {
                    &mut stayed
                } else {
                    &mut moved
                }) += 1;
            }
        }
        1000 * moved / (stayed + moved)
    }
}
