//! Histograms with Envoy's default buckets, which Istio's dashboards expect.

use std::sync::Arc;

use prometheus::proto::{Bucket, Metric, MetricType};

use crate::metrics::cell::Cell;
use crate::metrics::series::Series;

/// Upper bounds, inclusive: milliseconds or bytes.
pub(crate) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A histogram's handle.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Arc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    /// Not cumulative; the last is for what is above all bounds.
    buckets: [Cell; BOUNDS.len() + 1],
    count: Cell,
    /// The sum's bits as a float.
    sum: Cell,
}

impl Histogram {
    pub fn observe(&self, value: f64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.0.buckets.get(bucket) {
            bucket.add(1);
        }
        self.0.count.add(1);
        self.0.sum.add_float(value);
    }

    pub fn count(&self) -> u64 {
        self.0.count.get()
    }
}

impl Series for Histogram {
    fn held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn mark(&self) -> u64 {
        self.count()
    }

    fn metric(&self) -> Metric {
        let mut cumulative = 0;
        let buckets = BOUNDS
            .iter()
            .zip(&self.0.buckets)
            .map(|(bound, cell)| {
                cumulative += cell.get();
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(cumulative);
                bucket
            })
            .collect();
        let mut histogram = prometheus::proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(self.count());
        histogram.set_sample_sum(f64::from_bits(self.0.sum.get()));
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        metric
    }

    const TYPE: MetricType = MetricType::HISTOGRAM;
}
