//! Circuit breakers: how much may be on its way to a cluster at once.
//!
//! istiod always sends the thresholds, and without a DestinationRule they are 4294967295: no limit. Then
//! nothing is counted. What is counted lives in the cluster's slot, so that an update of the cluster doesn't
//! forget it.

use std::sync::atomic::{AtomicU32, Ordering};

use envoy_types::pb::envoy::config::cluster::v3::CircuitBreakers;
use envoy_types::pb::google::protobuf::UInt32Value;
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{OWN_COUNTERS, Table, harmless, honoured};

/// istiod's, where nobody asked for a limit.
const NO_LIMIT: u32 = u32::MAX;

/// Envoy's, where thresholds are sent and this one is not among them.
const DEFAULT_MAX: u32 = 1024;
const DEFAULT_MAX_RETRIES: u32 = 3;

pub(crate) static CIRCUIT_BREAKERS: Table = Table {
    name: "envoy.config.cluster.v3.CircuitBreakers",
    fields: &[honoured(1, "thresholds").list().of(&THRESHOLDS)],
    refused: "2 per_host_thresholds",
    required: &[],
};

static THRESHOLDS: Table = Table {
    name: "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
    fields: &[
        honoured(2, "max_connections").of(&UINT32_VALUE),
        honoured(3, "max_pending_requests").of(&UINT32_VALUE),
        honoured(4, "max_requests").of(&UINT32_VALUE),
        honoured(5, "max_retries").of(&UINT32_VALUE),
        harmless(6, "track_remaining", OWN_COUNTERS),
    ],
    refused: "1 priority, 7 max_connection_pools, 8 retry_budget",
    required: &[],
};

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open connections.
    Connections,
    /// Requests and TCP streams that wait for a connection, also for one that is being made.
    PendingRequests,
    /// Requests that have a connection, until their answer has ended.
    Requests,
    /// Retries, from the decision to their outcome.
    Retries,
}

/// A cluster's limits; 4294967295 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
}

impl Thresholds {
    pub const UNLIMITED: Thresholds = Thresholds {
        max_connections: NO_LIMIT,
        max_pending_requests: NO_LIMIT,
        max_requests: NO_LIMIT,
        max_retries: NO_LIMIT,
    };

    /// `None`: there is no limit, and nothing to count.
    pub(crate) fn from_proto(proto: Option<&CircuitBreakers>) -> Option<Thresholds> {
        // All are of the one priority that is honoured; the first counts, as in Envoy.
        let first = proto?.thresholds.first()?;
        let or = |value: &Option<UInt32Value>, default| value.as_ref().map_or(default, |v| v.value);
        let thresholds = Thresholds {
            max_connections: or(&first.max_connections, DEFAULT_MAX),
            max_pending_requests: or(&first.max_pending_requests, DEFAULT_MAX),
            max_requests: or(&first.max_requests, DEFAULT_MAX),
            max_retries: or(&first.max_retries, DEFAULT_MAX_RETRIES),
        };
        (thresholds != Thresholds::UNLIMITED).then_some(thresholds)
    }

    pub fn max(&self, resource: Resource) -> u32 {
        match resource {
            Resource::Connections => self.max_connections,
            Resource::PendingRequests => self.max_pending_requests,
            Resource::Requests => self.max_requests,
            Resource::Retries => self.max_retries,
        }
    }
}

/// How much is on its way to a cluster, counted while there are limits.
#[derive(Debug, Default)]
pub struct InUse([AtomicU32; 4]);

impl InUse {
    fn of(&self, resource: Resource) -> &AtomicU32 {
        let [connections, pending, requests, retries] = &self.0;
        match resource {
            Resource::Connections => connections,
            Resource::PendingRequests => pending,
            Resource::Requests => requests,
            Resource::Retries => retries,
        }
    }

    pub fn count(&self, resource: Resource) -> u32 {
        self.of(resource).load(Ordering::Relaxed)
    }

    /// Counts one more, unless there are `max` already.
    pub fn take(&self, resource: Resource, max: u32) -> bool {
        let more = |count| (count < max).then(|| count + 1);
        let counter = self.of(resource);
        counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Counts one more, whatever the limit.
    pub fn add(&self, resource: Resource) {
        self.of(resource).fetch_add(1, Ordering::Relaxed);
    }

    pub fn give_back(&self, resource: Resource) {
        self.of(resource).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers;

    use super::*;

    fn of(thresholds: Vec<circuit_breakers::Thresholds>) -> Option<Thresholds> {
        Thresholds::from_proto(Some(&CircuitBreakers {
            thresholds,
            ..Default::default()
        }))
    }

    fn value(value: u32) -> Option<UInt32Value> {
        Some(UInt32Value { value })
    }

    fn unlimited() -> circuit_breakers::Thresholds {
        circuit_breakers::Thresholds {
            max_connections: value(NO_LIMIT),
            max_pending_requests: value(NO_LIMIT),
            max_requests: value(NO_LIMIT),
            max_retries: value(NO_LIMIT),
            ..Default::default()
        }
    }

    #[test]
    fn without_limits_there_is_nothing_to_count() {
        assert_eq!(Thresholds::from_proto(None), None);
        assert_eq!(of(Vec::new()), None);
        assert_eq!(of(vec![unlimited()]), None);
    }

    #[test]
    fn what_thresholds_leave_out_is_as_envoy_has_it() {
        let limited = circuit_breakers::Thresholds {
            max_retries: value(7),
            ..unlimited()
        };
        assert_eq!(of(vec![limited]).unwrap().max(Resource::Retries), 7);
        let empty = of(vec![circuit_breakers::Thresholds::default(), unlimited()]).unwrap();
        assert_eq!(empty.max(Resource::Connections), 1024);
        assert_eq!(empty.max(Resource::PendingRequests), 1024);
        assert_eq!(empty.max(Resource::Requests), 1024);
        assert_eq!(empty.max(Resource::Retries), 3);
    }

    #[test]
    fn counts_stop_at_the_limit() {
        let in_use = InUse::default();
        assert!(!in_use.take(Resource::Requests, 0));
        assert!(in_use.take(Resource::Requests, 1));
        assert!(!in_use.take(Resource::Requests, 1));
        in_use.add(Resource::Requests);
        assert_eq!(in_use.count(Resource::Requests), 2);
        assert_eq!(in_use.count(Resource::Retries), 0);
        in_use.give_back(Resource::Requests);
        in_use.give_back(Resource::Requests);
        assert!(in_use.take(Resource::Requests, 1));
    }
}
