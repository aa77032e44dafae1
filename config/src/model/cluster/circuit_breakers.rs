//! Circuit breakers: how much may be on its way to a cluster at once.
//!
//! istiod always sends the thresholds, and without a DestinationRule they are 4294967295: no limit. Then
//! nothing is counted. What is counted lives in the cluster's slot, so that an update of the cluster doesn't
//! forget it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::CircuitBreakers;
use envoy_types::pb::google::protobuf::UInt32Value;
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{OWN_COUNTERS, Table, harmless, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::recent_requests::RecentRequests;
use crate::model::cluster::retry_budget::{RETRY_BUDGET, RetryBudget};

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
        honoured(8, "retry_budget").of(&RETRY_BUDGET),
    ],
    refused: "1 priority, 7 max_connection_pools",
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    /// In place of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
}

impl Thresholds {
    pub const UNLIMITED: Thresholds = Thresholds {
        max_connections: NO_LIMIT,
        max_pending_requests: NO_LIMIT,
        max_requests: NO_LIMIT,
        max_retries: NO_LIMIT,
        retry_budget: None,
    };

    /// `None`: there is no limit, and nothing to count.
    pub(crate) fn from_proto(
        proto: Option<&CircuitBreakers>,
    ) -> Result<Option<Thresholds>, Refusal> {
        // All are of the one priority that is honoured; the first counts, as in Envoy.
        let Some(first) = proto.and_then(|proto| proto.thresholds.first()) else {
            return Ok(None);
        };
        let or = |value: &Option<UInt32Value>, default| value.as_ref().map_or(default, |v| v.value);
        let thresholds = Thresholds {
            max_connections: or(&first.max_connections, DEFAULT_MAX),
            max_pending_requests: or(&first.max_pending_requests, DEFAULT_MAX),
            max_requests: or(&first.max_requests, DEFAULT_MAX),
            max_retries: or(&first.max_retries, DEFAULT_MAX_RETRIES),
            retry_budget: first
                .retry_budget
                .as_ref()
                .map(RetryBudget::from_proto)
                .transpose()
                .map_err(|e| e.within("retry_budget"))?,
        };
        Ok((thresholds != Thresholds::UNLIMITED).then_some(thresholds))
    }

    /// How much there may be at this time, beside what is `in_use`.
    pub fn max(&self, resource: Resource, in_use: &InUse, now: impl Fn() -> Instant) -> u32 {
        match resource {
            Resource::Connections => self.max_connections,
            Resource::PendingRequests => self.max_pending_requests,
            Resource::Requests => self.max_requests,
            Resource::Retries => match &self.retry_budget {
                None => self.max_retries,
                Some(budget) => budget.most(match budget.interval {
                    Some(interval) => in_use.begun(now(), interval),
                    None => {
                        let waiting = in_use.count(Resource::PendingRequests);
                        waiting.saturating_add(in_use.count(Resource::Requests))
                    }
                }),
            },
        }
    }
}

/// How much is on its way to a cluster, counted while there are limits.
#[derive(Debug, Default)]
pub struct InUse {
    counts: [AtomicU32; 4],
    /// Where a retry budget has an interval.
    recent: OnceLock<Box<RecentRequests>>,
}

impl InUse {
    fn of(&self, resource: Resource) -> &AtomicU32 {
        let [connections, pending, requests, retries] = &self.counts;
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

    /// A request begins, of which a retry budget's interval takes notice.
    pub fn begin(&self, now: Instant, interval: Duration) {
        let recent = self
            .recent
            .get_or_init(|| Box::new(RecentRequests::new(now)));
        recent.add(now, interval);
    }

    /// How many requests began within an interval.
    fn begun(&self, now: Instant, interval: Duration) -> u32 {
        let recent = self.recent.get();
        recent.map_or(0, |recent| recent.count(now, interval))
    }

    pub fn give_back(&self, resource: Resource) {
        self.of(resource).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers;
    use envoy_types::pb::envoy::r#type::v3::Percent;

    use super::*;

    fn of(thresholds: Vec<circuit_breakers::Thresholds>) -> Option<Thresholds> {
        Thresholds::from_proto(Some(&CircuitBreakers {
            thresholds,
            ..Default::default()
        }))
        .unwrap()
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
        assert_eq!(Thresholds::from_proto(None), Ok(None));
        assert_eq!(of(Vec::new()), None);
        assert_eq!(of(vec![unlimited()]), None);
    }

    #[test]
    fn what_thresholds_leave_out_is_as_envoy_has_it() {
        let limited = circuit_breakers::Thresholds {
            max_retries: value(7),
            ..unlimited()
        };
        let none = InUse::default();
        let max = |thresholds: Thresholds, resource| thresholds.max(resource, &none, Instant::now);
        assert_eq!(max(of(vec![limited]).unwrap(), Resource::Retries), 7);
        let empty = of(vec![circuit_breakers::Thresholds::default(), unlimited()]).unwrap();
        assert_eq!(max(empty, Resource::Connections), 1024);
        assert_eq!(max(empty, Resource::PendingRequests), 1024);
        assert_eq!(max(empty, Resource::Requests), 1024);
        assert_eq!(max(empty, Resource::Retries), 3);
    }

    #[test]
    fn a_budget_of_retries_grows_with_what_is_under_way() {
        let budget = circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(Percent { value: 50.0 }),
            min_retry_concurrency: value(1),
            ..Default::default()
        };
        let thresholds = of(vec![circuit_breakers::Thresholds {
            retry_budget: Some(budget),
            ..unlimited()
        }]);
        let in_use = InUse::default();
        let now = Instant::now;
        let most = || thresholds.unwrap().max(Resource::Retries, &in_use, now);
        assert_eq!(most(), 1);
        (0..5).for_each(|_| in_use.add(Resource::Requests));
        assert_eq!(most(), 2);
        in_use.add(Resource::PendingRequests);
        assert_eq!(most(), 3);
    }

    #[test]
    fn with_an_interval_a_budget_counts_what_began_within_it() {
        let budget = circuit_breakers::thresholds::RetryBudget {
            budget_percent: Some(Percent { value: 50.0 }),
            min_retry_concurrency: value(1),
            budget_interval: Some(envoy_types::pb::google::protobuf::Duration {
                seconds: 10,
                nanos: 0,
            }),
        };
        let thresholds = of(vec![circuit_breakers::Thresholds {
            retry_budget: Some(budget),
            ..unlimited()
        }])
        .unwrap();
        let interval = thresholds.retry_budget.unwrap().interval.unwrap();
        let (start, in_use) = (Instant::now(), InUse::default());
        let most = |after: u64| {
            let now = start + Duration::from_secs(after);
            thresholds.max(Resource::Retries, &in_use, || now)
        };
        // What is under way doesn't count.
        (0..8).for_each(|_| in_use.add(Resource::Requests));
        assert_eq!(most(0), 1);
        (0..8).for_each(|_| in_use.begin(start, interval));
        assert_eq!((most(0), most(9), most(10)), (4, 4, 1));
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
