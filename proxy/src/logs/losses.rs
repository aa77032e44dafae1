//! Lines of the process's own log that nobody will read, counted by why.

use std::sync::Arc;

use prometheus::{IntCounterVec, Opts};
use waypoint_filters::metrics::MetricRegistry;

/// Why a line is not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// There were too many of its kind.
    Rate,
    /// Its reader is slow or gone.
    Unwritten,
}

/// The counts. Clones are the same ones.
#[derive(Clone)]
pub struct Losses {
    /// `None` never comes about: the name is a good one.
    counts: Option<Arc<IntCounterVec>>,
}

impl std::fmt::Debug for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Losses")
    }
}

impl Default for Losses {
    fn default() -> Losses {
        let says = Opts::new(
            "waypoint_log_lines_lost_total",
            "Lines of the process's own log that were not written, by reason: rate, unwritten.",
        );
        Losses {
            counts: IntCounterVec::new(says, &["reason"]).ok().map(Arc::new),
        }
    }
}

impl Losses {
    pub(crate) fn add(&self, why: Loss, lines: u64) {
        let reason = match why {
            Loss::Rate => "rate",
            Loss::Unwritten => "unwritten",
        };
        if let Some(counts) = &self.counts
            && let Ok(count) = counts.get_metric_with_label_values(&[reason])
        {
            count.inc_by(lines);
        }
    }

    /// Shows the counts among a waypoint's metrics.
    pub(crate) fn register(&self, metrics: &MetricRegistry) {
        for why in [Loss::Rate, Loss::Unwritten] {
            self.add(why, 0);
        }
        if let Some(counts) = &self.counts
            && let Err(error) = metrics.register(Box::new(IntCounterVec::clone(counts)))
        {
            tracing::error!(%error, "the metric of lost log lines can't be registered");
        }
    }
}
