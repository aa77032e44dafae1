//! When the process began, on both clocks.

use std::time::{Instant, SystemTime};

/// When the process began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started {
    pub(crate) at: SystemTime,
    pub(crate) instant: Instant,
}

impl Started {
    pub(crate) fn now() -> Started {
        Started {
            at: SystemTime::now(),
            instant: Instant::now(),
        }
    }
}
