//! Least request: of a few random endpoints the one with the fewest requests in flight.
//!
//! With unequal weights there is one draw, as in Envoy: shares go by weight per request in flight, so that at rest they are
//! the weights.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::model::balance::random::{by_share, evenly, weight};
use crate::model::endpoint::Endpoint;

/// `choice_count` of them are compared.
pub(crate) fn choose<'a>(
    endpoints: &'a [Arc<Endpoint>],
    equal_weights: bool,
    choice_count: u32,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    let load = |e: &Endpoint| u64::from(e.state.active.load(Ordering::Relaxed)) + 1;
    if !equal_weights {
        // A finer unit than one, so that a busy endpoint keeps a share.
        return by_share(endpoints, |e| (weight(e) << 16) / load(e), random);
    }
    let mut best: Option<&Arc<Endpoint>> = None;
    for _ in 0..choice_count.max(1) {
        let candidate = evenly(endpoints, random)?;
        if best.is_none_or(|best| load(candidate) < load(best)) {
            best = Some(candidate);
        }
    }
    best
}
