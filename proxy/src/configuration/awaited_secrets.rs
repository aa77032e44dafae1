//! What is told of secrets that clusters refer to and that never came.

use std::collections::BTreeSet;

use waypoint_config::standalone::report;
use waypoint_filters::metrics::MetricRegistry;

/// Sets the gauge; gives a line for each.
pub(super) fn told(names: &BTreeSet<String>, metrics: &MetricRegistry) -> Vec<String> {
    metrics
        .gauges(
            "waypoint_secrets_awaited",
            "Secrets that clusters refer to by name and that never came; connections that need one fail.",
            &[],
        )
        .with(&[])
        .set(names.len() as u64);
    report::lines(names.iter().map(|name| match name.as_str() {
        // What istiod calls a reference that can't be used.
        "invalid://" => {
            "certificates that a policy names can't be used: connections fail".to_owned()
        }
        name => format!("secret {name:?}: isn't there; connections that need it fail until it is"),
    }))
}
