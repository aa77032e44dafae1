//! Metrics: bounded families of series behind one Prometheus registry.

/// The process's metrics.
#[derive(Default)]
pub struct MetricRegistry {}
