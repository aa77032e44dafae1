//! What RBAC filters decided, counted as Envoy counts it: by the prefix that configuration gives, and by result. `/stats`
//! tells the same by Envoy's names.

use std::sync::Arc;

use crate::metrics::{Counter, MetricRegistry};

/// The family's name, by which `/stats` knows it.
pub const RBAC_TOTAL: &str = "waypoint_rbac_total";

/// The counters of one filter; all with the same labels are one.
#[derive(Clone)]
pub(crate) struct Counters {
    allowed: Counter,
    denied: Counter,
    shadow_allowed: Counter,
    shadow_denied: Counter,
}

impl Counters {
    /// `filter` is `http` or `network`, `prefix` what its counters are called after, `shadow` what those of shadow rules begin with.
    pub(crate) fn new(
        metrics: &MetricRegistry,
        filter: &str,
        prefix: &str,
        shadow: &str,
    ) -> Counters {
        let family = metrics.counters(
            RBAC_TOTAL,
            "Requests and TCP streams that RBAC filters decided about, as Envoy counts them: by filter (http, network), \
             stat_prefix and result. Shadow rules decide nothing: those of istio_dry_run_* would have, those of istio_ext_authz_* \
             say whether somebody is asked.",
            &["filter", "stat_prefix", "result"],
        );
        let (filter, prefix): (Arc<str>, Arc<str>) = (filter.into(), prefix.into());
        let of = |result: String| family.with(&[filter.clone(), prefix.clone(), result.into()]);
        Counters {
            allowed: of("allowed".to_owned()),
            denied: of("denied".to_owned()),
            shadow_allowed: of(format!("{shadow}shadow_allowed")),
            shadow_denied: of(format!("{shadow}shadow_denied")),
        }
    }

    pub(crate) fn enforced(&self, allowed: bool) {
        match allowed {
            true => self.allowed.add(1),
            false => self.denied.add(1),
        }
    }

    pub(crate) fn shadow(&self, allowed: bool) {
        match allowed {
            true => self.shadow_allowed.add(1),
            false => self.shadow_denied.add(1),
        }
    }
}
