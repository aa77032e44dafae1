//! Whether the configuration is in force, as metrics: what an alert looks at.
//!
//! Counters are there from the start, at 0: of a series that begins with its first count, `increase()` never sees that one.

use std::sync::Arc;

use waypoint_config::standalone::{Severity, Translation};
use waypoint_config::store::{ChainState, Store};
use waypoint_filters::metrics::{CounterFamily, MetricRegistry};

/// What security objects of manifests close, since they can't be honoured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Closed {
    objects: usize,
    chains: usize,
}

impl Closed {
    pub(super) fn by(translation: &Translation) -> Closed {
        let problems = translation.problems.iter();
        let closing = problems.filter(|problem| problem.severity >= Severity::FailClosed);
        Closed {
            objects: closing.count(),
            chains: translation.closed_chains,
        }
    }
}

/// Updates by what became of them.
pub(super) fn updates(metrics: &MetricRegistry) -> Arc<CounterFamily> {
    metrics.counters(
        "waypoint_config_updates_total",
        "Configuration updates, by whether all of it was accepted, and whether anything in it was new.",
        &["result"],
    )
}

pub(super) fn register_updates(metrics: &MetricRegistry) {
    let updates = updates(metrics);
    for result in ["accepted", "refused", "unchanged"] {
        updates.with(&[result.into()]);
    }
}

/// Sets the gauges. A chain that an object of a manifest closes is compiled like any other: it is the store's to serve, and
/// the manifest's to say that it is closed.
pub(super) fn tell(metrics: &MetricRegistry, store: &Store, closed: Closed, not_in_use: usize) {
    let chains = metrics.gauges(
        "waypoint_filter_chains",
        "Filter chains: current; stale, their last version is refused or waits; closed, by a refusal or by a security object \
         that can't be honoured.",
        &["state"],
    );
    for (state, n) in store.chain_states() {
        let n = match state {
            ChainState::Current => n.saturating_sub(closed.chains),
            ChainState::Stale => n,
            ChainState::Closed => n + closed.chains,
        };
        chains.with(&[state.label().into()]).set(n as u64);
    }
    let refused = metrics.gauges(
        "waypoint_config_refused",
        "What is refused as it stands now: resources of xDS and filter chains, files of manifests, and security objects that \
         close what they target.",
        &["what"],
    );
    for (what, n) in [
        ("resource", store.rejected().len()),
        ("file", not_in_use),
        ("object", closed.objects),
    ] {
        refused.with(&[what.into()]).set(n as u64);
    }
}
