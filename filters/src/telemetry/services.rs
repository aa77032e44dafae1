//! All that telemetry is sent to in the background: tracers' collectors, and services of access logs.

use std::time::Duration;

use crate::metrics::MetricRegistry;
use crate::telemetry::log_service::services::LogServices;
use crate::telemetry::trace::providers::{NodeNames, TraceProviders};

/// Those of the process.
pub struct TelemetryServices {
    pub traces: TraceProviders,
    pub logs: LogServices,
}

impl TelemetryServices {
    /// `id` and `cluster` are the node's.
    pub fn new(id: &str, cluster: &str, metrics: &MetricRegistry) -> TelemetryServices {
        let node = NodeNames {
            id: id.to_owned(),
            cluster: cluster.to_owned(),
        };
        TelemetryServices {
            traces: TraceProviders::new(node, metrics),
            logs: LogServices::new(metrics),
        }
    }

    /// Runs their exporters.
    pub async fn run(&self) {
        tokio::join!(self.traces.run(), self.logs.run());
    }

    /// Has all that was handed over sent, as far as `time` allows.
    pub async fn flush(&self, time: Duration) {
        tokio::join!(self.traces.flush(time), self.logs.flush(time));
    }

    /// Those that can't be told anything at present, a line for each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.traces.problems();
        problems.extend(self.logs.problems());
        problems
    }
}
