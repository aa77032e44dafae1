//! What came of checks, as Envoy counts it: by filter, by the cluster that was asked, and by result.

use std::sync::Arc;

use crate::metrics::{Counter, MetricRegistry};

/// The counters of one filter; all with the same labels are one.
#[derive(Clone)]
pub(crate) struct Counters {
    pub(crate) ok: Counter,
    pub(crate) denied: Counter,
    pub(crate) error: Counter,
    pub(crate) failure_mode_allowed: Counter,
    /// Nobody was asked.
    pub(crate) disabled: Counter,
    /// The service wanted something done that can't be.
    pub(crate) invalid: Counter,
}

impl Counters {
    /// `prefix` is what configuration calls the filter.
    pub(crate) fn new(
        metrics: &MetricRegistry,
        filter: &str,
        prefix: &str,
        cluster: &Arc<str>,
    ) -> Counters {
        let family = metrics.counters(
            "waypoint_ext_authz_total",
            "External authorization: requests and connections, by filter (http, network), its stat_prefix, the cluster that is \
             asked, and what came of it. An error that was let pass counts as failure_mode_allowed, too.",
            &["filter", "stat_prefix", "cluster", "result"],
        );
        let (filter, prefix): (Arc<str>, Arc<str>) = (filter.into(), prefix.into());
        let of = |result: &str| {
            let labels = [
                filter.clone(),
                prefix.clone(),
                cluster.clone(),
                result.into(),
            ];
            family.with(&labels)
        };
        Counters {
            ok: of("ok"),
            denied: of("denied"),
            error: of("error"),
            failure_mode_allowed: of("failure_mode_allowed"),
            disabled: of("disabled"),
            invalid: of("invalid"),
        }
    }
}
