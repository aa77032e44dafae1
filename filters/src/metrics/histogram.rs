//! Histograms with Envoy's default buckets, which Istio's dashboards expect.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::metrics::cell::Cell;
use crate::metrics::exposition::{Distribution, Exemplar, Kind, Sample};
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

/// By bucket; sorted.
type Exemplars = Mutex<Vec<(usize, Exemplar)>>;

#[derive(Debug, Default)]
struct Cells {
    /// Not cumulative; the last is for what is above all bounds.
    buckets: [Cell; BOUNDS.len() + 1],
    /// The sum's bits as a float.
    sum: Cell,
    /// The last one of each bucket that has any; there once one was given.
    exemplars: OnceLock<Box<Exemplars>>,
}

impl Histogram {
    pub fn observe(&self, value: f64) {
        self.count_in(bucket_of(value), value);
    }

    /// With the trace in which the value came about. Where another exemplar is being written this one is let go: nobody
    /// waits.
    pub fn observe_in_trace(&self, value: f64, trace_id: u128, at: SystemTime) {
        let bucket = bucket_of(value);
        self.count_in(bucket, value);
        let exemplars = self.0.exemplars.get_or_init(Box::default);
        let Some(mut exemplars) = exemplars.try_lock() else {
            return;
        };
        let exemplar = Exemplar {
            trace_id,
            value,
            at,
        };
        match exemplars.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(known) => {
                if let Some(known) = exemplars.get_mut(known) {
                    known.1 = exemplar;
                }
            }
            Err(place) => exemplars.insert(place, (bucket, exemplar)),
        }
    }

    fn count_in(&self, bucket: usize, value: f64) {
        if let Some(bucket) = self.0.buckets.get(bucket) {
            bucket.add(1);
        }
        self.0.sum.add_float(value);
    }

    pub fn count(&self) -> u64 {
        self.0.buckets.iter().map(Cell::get).sum()
    }
}

fn bucket_of(value: f64) -> usize {
    BOUNDS.partition_point(|bound| *bound < value)
}

impl Series for Histogram {
    fn held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn mark(&self) -> u64 {
        self.count()
    }

    /// The count is that of the buckets: none says more than it, which a reader takes for granted.
    fn sample(&self) -> Sample {
        let mut below = 0;
        let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(BOUNDS.len());
        for (bound, cell) in BOUNDS.iter().zip(&self.0.buckets) {
            below += cell.get();
            buckets.push((*bound, below));
        }
        let above = self.0.buckets.last().map_or(0, Cell::get);
        let exemplars = self.0.exemplars.get();
        Sample::Histogram(Distribution {
            buckets,
            count: below + above,
            sum: f64::from_bits(self.0.sum.get()),
            exemplars: exemplars.map_or_else(Vec::new, |exemplars| exemplars.lock().clone()),
        })
    }

    const KIND: Kind = Kind::Histogram;
}
