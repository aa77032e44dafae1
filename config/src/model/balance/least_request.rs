//! Least request: of a few random endpoints the one with the fewest requests in flight.
//!
//! With unequal weights there is one draw, as in Envoy: shares go by weight per request in flight, so that at rest they are
//! the weights.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::model::balance::random::{by_share, evenly, weight};
use crate::model::endpoint::Endpoint;

/// What an endpoint takes where weights differ: what it weighs, by the requests in flight to the power of `bias`.
pub(crate) fn share(endpoint: &Endpoint, bias: f64) -> u64 {
    // A finer unit than one, so that a busy endpoint keeps a share.
    let weight = weight(endpoint) << 16;
    if bias == 1.0 {
        return weight / load(endpoint);
    }
    (weight as f64 / (load(endpoint) as f64).powf(bias)) as u64
}

fn load(endpoint: &Endpoint) -> u64 {
    u64::from(endpoint.state.active.load(Ordering::Relaxed)) + 1
}

/// `choice_count` of them are compared.
pub(crate) fn choose<'a>(
    endpoints: &'a [Arc<Endpoint>],
    equal_weights: bool,
    choice_count: u32,
    bias: f64,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    if !equal_weights {
        return by_share(endpoints, |e| share(e, bias), random);
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
