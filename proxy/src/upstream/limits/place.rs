//! A connection's place under its cluster's limit.

use std::sync::{Arc, Weak};

use crate::upstream::limits::{Limits, Permit};

/// Whoever waits for places.
pub(crate) trait Waiters: Send + Sync {
    /// A place came free.
    fn hand_on(self: Arc<Self>, limits: &Limits);
}

/// A place, from the dial until its socket is closed.
pub(crate) struct Place {
    permit: Option<Permit>,
    /// Whose requests may wait for it, if any do: not for HTTP/2 and TCP.
    waiters: Option<Weak<dyn Waiters>>,
    limits: Limits,
}

impl Place {
    /// For which nobody waits.
    pub(crate) fn alone(permit: Permit, limits: &Limits) -> Place {
        Place {
            permit: Some(permit),
            waiters: None,
            limits: limits.clone(),
        }
    }

    /// Which goes to `waiters` when it comes free.
    pub(crate) fn of(permit: Permit, waiters: Weak<dyn Waiters>, limits: &Limits) -> Place {
        Place {
            permit: Some(permit),
            waiters: Some(waiters),
            limits: limits.clone(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.permit = None;
        if let Some(waiters) = self.waiters.as_ref().and_then(Weak::upgrade) {
            waiters.hand_on(&self.limits);
        }
    }
}
