//! What a series counts in.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that changes without a lock.
#[derive(Debug, Default)]
pub(crate) struct Cell(AtomicU64);

impl Cell {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds to a number that is kept as the bits of a float.
    pub(crate) fn add_float(&self, n: f64) {
        let add = |bits| Some((f64::from_bits(bits) + n).to_bits());
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}
