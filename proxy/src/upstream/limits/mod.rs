//! A cluster's circuit breakers at work: permits that count, and give back when they are dropped.
//!
//! A cluster without limits has no [`Limits`], and nothing is counted for it.

pub(crate) mod open;
pub(crate) mod place;

use std::sync::Arc;
use std::time::Instant;

use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::circuit_breakers::{InUse, Resource, Thresholds};
use waypoint_config::model::cluster::slot::ClusterSlot;

use crate::upstream::error::{UpstreamError, UpstreamErrorKind};

/// The limits of a cluster as it is now, and what they count.
#[derive(Clone)]
pub(crate) struct Limits {
    thresholds: Thresholds,
    in_use: Arc<InUse>,
}

impl Limits {
    /// `None`: there is no limit.
    pub(crate) fn of(slot: &ClusterSlot, cluster: &Cluster) -> Option<Limits> {
        Some(Limits {
            thresholds: cluster.thresholds?,
            in_use: slot.in_use.clone(),
        })
    }

    /// One more; the error is an overflow.
    pub(crate) fn take(&self, resource: Resource) -> Result<Permit, UpstreamError> {
        let max = self.thresholds.max(resource, &self.in_use, Instant::now);
        if self.in_use.take(resource, max) {
            if resource == Resource::Requests
                && let Some(interval) = self.thresholds.retry_budget.and_then(|b| b.interval)
            {
                self.in_use.begin(Instant::now(), interval);
            }
            Ok(self.permit(resource))
        } else {
            Err(UpstreamError::new(UpstreamErrorKind::Overflow))
        }
    }

    /// One more, whatever the limit.
    pub(crate) fn take_always(&self, resource: Resource) -> Permit {
        self.in_use.add(resource);
        self.permit(resource)
    }

    fn permit(&self, resource: Resource) -> Permit {
        Permit {
            in_use: self.in_use.clone(),
            resource,
        }
    }
}

/// One that is counted, for as long as this is held.
pub(crate) struct Permit {
    in_use: Arc<InUse>,
    resource: Resource,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_use.give_back(self.resource);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// At most one connection, and no limit else.
    pub(crate) fn one_connection() -> Limits {
        Limits {
            thresholds: Thresholds {
                max_connections: 1,
                max_pending_requests: u32::MAX,
                max_requests: u32::MAX,
                max_retries: u32::MAX,
                retry_budget: None,
            },
            in_use: Arc::default(),
        }
    }

    #[test]
    fn a_permit_counts_until_it_is_dropped_whatever_drops_it() {
        let limits = one_connection();
        let permit = limits.take(Resource::Connections).unwrap();
        let error = limits.take(Resource::Connections).err().unwrap();
        assert_eq!(error.kind, UpstreamErrorKind::Overflow);
        drop(limits.take_always(Resource::Connections));
        let panicked = std::thread::spawn(move || {
            let _permit = permit;
            panic!("a test's panic");
        });
        assert!(panicked.join().is_err());
        assert_eq!(limits.in_use.count(Resource::Connections), 0);
        assert!(limits.take(Resource::Connections).is_ok());
    }
}
