//! Circuit breakers: how much may be on its way to a cluster at once.
//!
//! istiod's default is no limit. Limits of a DestinationRule would have to be kept, and are refused until
//! they are.

use envoy_types::pb::envoy::config::cluster::v3::CircuitBreakers;
use waypoint_filters::coverage::well_known::UINT32_VALUE;
use waypoint_filters::coverage::{OWN_COUNTERS, Table, harmless, honoured};
use waypoint_filters::rejected::Refusal;

/// istiod's, where nobody asked for a limit.
const NO_LIMIT: u32 = u32::MAX;

pub(crate) static CIRCUIT_BREAKERS: Table = Table {
    name: "envoy.config.cluster.v3.CircuitBreakers",
    fields: &[honoured(1, "thresholds").list().of(&THRESHOLDS)],
    refused: "2 per_host_thresholds",
    required: &[],
};

static THRESHOLDS: Table = Table {
    name: "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
    fields: &[
        honoured(2, "max_connections")
            .only("4294967295, no limit")
            .of(&UINT32_VALUE),
        honoured(3, "max_pending_requests")
            .only("4294967295, no limit")
            .of(&UINT32_VALUE),
        honoured(4, "max_requests")
            .only("4294967295, no limit")
            .of(&UINT32_VALUE),
        honoured(5, "max_retries")
            .only("4294967295, no limit")
            .of(&UINT32_VALUE),
        harmless(6, "track_remaining", OWN_COUNTERS),
    ],
    refused: "1 priority, 7 max_connection_pools, 8 retry_budget",
    required: &[],
};

/// Refuses limits.
pub(crate) fn check(proto: Option<&CircuitBreakers>) -> Result<(), Refusal> {
    for (i, threshold) in proto.iter().flat_map(|p| &p.thresholds).enumerate() {
        for (name, limit) in [
            ("max_connections", &threshold.max_connections),
            ("max_pending_requests", &threshold.max_pending_requests),
            ("max_requests", &threshold.max_requests),
            ("max_retries", &threshold.max_retries),
        ] {
            if limit.as_ref().is_some_and(|limit| limit.value != NO_LIMIT) {
                let refusal = Refusal::unsupported(name);
                return Err(refusal.within(format!("circuit_breakers.thresholds[{i}]")));
            }
        }
    }
    Ok(())
}
