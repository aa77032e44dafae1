//! How long upstream connections live, and how much they carry: looked at when one is asked for, and by the sweep.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use waypoint_config::model::cluster::Cluster;

/// How long a connection may be kept idle.
#[derive(Clone, Copy)]
pub(crate) struct IdleLimits {
    /// Since its last request.
    pub(crate) idle: Duration,
    /// Since it was opened. One that is older ends when it has nothing to carry.
    pub(crate) age: Duration,
    /// How many it carries.
    requests: u32,
}

impl IdleLimits {
    /// Nothing may be kept idle.
    pub(crate) const NONE: IdleLimits = IdleLimits {
        idle: Duration::ZERO,
        age: Duration::ZERO,
        requests: 0,
    };

    pub(crate) fn of(cluster: &Cluster) -> IdleLimits {
        IdleLimits {
            idle: cluster.idle_timeout.unwrap_or(Duration::MAX),
            age: cluster.max_connection_duration.unwrap_or(Duration::MAX),
            requests: cluster
                .max_requests_per_connection
                .filter(|max| *max > 0)
                .unwrap_or(u32::MAX),
        }
    }

    pub(crate) fn allow(&self, opened: Instant, idle_since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(idle_since) < self.idle
            && now.saturating_duration_since(opened) < self.age
    }

    /// Whether a connection that carried so many requests may carry another.
    pub(crate) fn allow_more(&self, requests: u32) -> bool {
        requests < self.requests
    }
}

/// How long the endpoint's connections may live, for the sweep, in milliseconds: its cluster's settings, which may
/// change while the endpoint stays.
pub(crate) struct Lifetimes {
    idle: AtomicU64,
    age: AtomicU64,
}

impl Lifetimes {
    pub(crate) fn unlimited() -> Lifetimes {
        Lifetimes {
            idle: AtomicU64::new(u64::MAX),
            age: AtomicU64::new(u64::MAX),
        }
    }

    pub(crate) fn follow(&self, cluster: &Cluster) {
        let limits = IdleLimits::of(cluster);
        for (kept, wanted) in [
            (&self.idle, millis(limits.idle)),
            (&self.age, millis(limits.age)),
        ] {
            if kept.load(Ordering::Relaxed) != wanted {
                kept.store(wanted, Ordering::Relaxed);
            }
        }
    }

    /// When a connection that is idle is swept.
    pub(crate) fn limits(&self) -> IdleLimits {
        let limit = |millis: &AtomicU64| Duration::from_millis(millis.load(Ordering::Relaxed));
        IdleLimits {
            idle: limit(&self.idle),
            age: limit(&self.age),
            requests: u32::MAX,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
