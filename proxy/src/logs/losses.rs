//! Lines of the process's own log that nobody will read, counted by why.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::metrics::exposition::{Exposition, Kind, Sample};

/// Why a line is not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// There were too many of its kind.
    Rate,
    /// Its reader is slow or gone.
    Unwritten,
}

/// The counts, which begin before there is a registry. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    rate: AtomicU64,
    unwritten: AtomicU64,
}

impl Losses {
    pub(crate) fn add(&self, why: Loss, lines: u64) {
        match why {
            Loss::Rate => &self.counts.rate,
            Loss::Unwritten => &self.counts.unwritten,
        }
        .fetch_add(lines, Ordering::Relaxed);
    }

    /// Shows the counts among a waypoint's metrics.
    pub(crate) fn register(&self, metrics: &MetricRegistry) {
        let counts = self.counts.clone();
        metrics.register(move |out: &mut dyn Exposition| {
            out.family(
                "waypoint_log_lines_lost_total",
                "Lines of the process's own log that were not written, by reason: rate, unwritten.",
                Kind::Counter,
            )?;
            for (reason, lines) in [("rate", &counts.rate), ("unwritten", &counts.unwritten)] {
                let lines = Sample::Whole(lines.load(Ordering::Relaxed));
                out.series(&[("reason", reason)], &lines)?;
            }
            Ok(())
        });
    }
}
