//! Whether the process may get traffic: configuration and certificate are in place, and it isn't draining.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use waypoint_config::store::SnapshotHandle;
use waypoint_hbone::tls::Tls;

/// Asked by the readiness port and the admin port.
#[derive(Clone)]
pub(crate) struct Readiness {
    snapshot: SnapshotHandle,
    tls: Tls,
    draining: Arc<AtomicBool>,
}

impl Readiness {
    pub(crate) fn new(snapshot: SnapshotHandle, tls: Tls) -> Readiness {
        Readiness {
            snapshot,
            tls,
            draining: Arc::default(),
        }
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// # Errors
    /// What is missing.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.is_draining() {
            return Err("draining");
        }
        if self.snapshot.load().is_none() {
            return Err("no configuration yet");
        }
        if !self.tls.ready() {
            return Err("no certificate yet");
        }
        Ok(())
    }
}
