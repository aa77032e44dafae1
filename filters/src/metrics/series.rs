//! What is counted: counters and gauges, and what a family asks of any series.

use std::sync::Arc;

use prometheus::proto::{Metric, MetricType};

use crate::metrics::cell::Cell;

/// A counter's handle.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<Cell>);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.add(n);
    }

    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A gauge's handle.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<Cell>);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }

    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// What a family keeps per series.
pub trait Series: Clone + Default {
    /// Whether somebody besides the family holds the handle.
    fn held(&self) -> bool;
    /// A number that changes with every count.
    fn mark(&self) -> u64;
    fn metric(&self) -> Metric;
    const TYPE: MetricType;
}

impl Series for Counter {
    fn held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn mark(&self) -> u64 {
        self.get()
    }

    fn metric(&self) -> Metric {
        let mut counter = prometheus::proto::Counter::default();
        counter.set_value(self.get() as f64);
        let mut metric = Metric::default();
        metric.set_counter(counter);
        metric
    }

    const TYPE: MetricType = MetricType::COUNTER;
}

impl Series for Gauge {
    fn held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn mark(&self) -> u64 {
        self.get()
    }

    fn metric(&self) -> Metric {
        let mut gauge = prometheus::proto::Gauge::default();
        gauge.set_value(self.get() as f64);
        let mut metric = Metric::default();
        metric.set_gauge(gauge);
        metric
    }

    const TYPE: MetricType = MetricType::GAUGE;
}
