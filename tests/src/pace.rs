//! What something takes on this machine now, as the measure of what it may take under attack.
//!
//! A bound in seconds alone says as much of the machine as of the waypoint: two busy cores, a debug build.

use std::time::{Duration, Instant};

/// The slowest of a few, before the attack.
#[derive(Clone, Copy, Debug)]
pub struct Pace(Duration);

impl Pace {
    pub async fn of<T>(mut act: impl AsyncFnMut() -> T) -> Pace {
        let mut slowest = Duration::ZERO;
        for _ in 0..5 {
            let started = Instant::now();
            act().await;
            slowest = slowest.max(started.elapsed());
        }
        Pace(slowest)
    }

    /// # Panics
    /// It took longer than `limit` and twenty times what it takes without an attack.
    pub fn assert(&self, took: Duration, limit: Duration, what: &str) {
        let bound = limit + 20 * self.0;
        assert!(took < bound, "{what}: {took:?}, and {self:?} before");
    }
}
