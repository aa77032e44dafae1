//! What may be left out: sinks and metric overrides that aren't built. Traffic doesn't depend on them, so
//! the rest of a chain is honoured, and the omission is told in the log and counted.

use crate::host::Host;
use crate::rejected::Refusal;

/// Tells that something was left out; `kind` is `access_log` or `metric_override`.
pub fn report(host: &dyn Host, kind: &'static str, refusal: &Refusal) {
    tracing::warn!(kind, %refusal, "left out: telemetry that isn't built");
    host.metrics()
        .counters(
            "waypoint_config_omitted_total",
            "Telemetry configuration that was left out, by kind, each time it was compiled.",
            &["kind"],
        )
        .with(&[kind.into()])
        .add(1);
}
