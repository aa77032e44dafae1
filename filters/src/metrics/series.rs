//! What is counted: counters and gauges, and what a family asks of any series.

use std::sync::Arc;

use crate::metrics::cell::Cell;
use crate::metrics::exposition::{Kind, Sample};

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
pub trait Series: Clone + Default + Send + Sync + 'static {
    /// Whether somebody besides the family holds the handle.
    fn held(&self) -> bool;
    /// A number that changes with every count.
    fn mark(&self) -> u64;
    fn sample(&self) -> Sample;
    /// Begins at 0 again, where it counts.
    fn reset(&self) {}
    const KIND: Kind;
}

impl Series for Counter {
    fn held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn mark(&self) -> u64 {
        self.get()
    }

    fn sample(&self) -> Sample {
        Sample::Whole(self.get())
    }

    fn reset(&self) {
        self.0.set(0);
    }

    const KIND: Kind = Kind::Counter;
}

impl Series for Gauge {
    fn held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn mark(&self) -> u64 {
        self.get()
    }

    fn sample(&self) -> Sample {
        Sample::Whole(self.get())
    }

    const KIND: Kind = Kind::Gauge;
}
