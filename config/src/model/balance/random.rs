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
