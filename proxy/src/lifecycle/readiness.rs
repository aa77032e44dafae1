//! Whether the process may get traffic: configuration and certificate are in place, names have been looked
//! up, and it isn't draining.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use waypoint_config::model::listener::chain::FilterChain;
use waypoint_config::store::SnapshotHandle;
use waypoint_hbone::tls::Tls;

use crate::lifecycle::drain::Drain;
use crate::process::vitals::Vitals;

/// How long a new process stays out of traffic for the sake of a chain that it can't honour: long enough
/// for a rollout to stop at it, short enough not to take the other services down.
const HESITATION: Duration = Duration::from_secs(30);

/// How long a new process waits for the first lookups of names.
const LOOKUPS: Duration = Duration::from_secs(5);

/// Asked by the readiness port and the admin port.
#[derive(Clone)]
pub(crate) struct Readiness {
    snapshot: SnapshotHandle,
    tls: Tls,
    /// Names that have never been looked up.
    untried_names: Arc<AtomicUsize>,
    drain: Drain,
    vitals: Vitals,
    /// Was ready once. As with Envoy, what is lost later doesn't take that away: traffic goes on.
    live: Arc<AtomicBool>,
    /// Told to look unhealthy.
    failed: Arc<AtomicBool>,
    started: Instant,
}

impl Readiness {
    pub(crate) fn new(
        snapshot: SnapshotHandle,
        tls: Tls,
        untried_names: Arc<AtomicUsize>,
        drain: Drain,
        vitals: Vitals,
    ) -> Readiness {
        Readiness {
            snapshot,
            tls,
            untried_names,
            drain,
            vitals,
            live: Arc::default(),
            failed: Arc::default(),
            started: Instant::now(),
        }
    }

    /// Chains that are closed because they never had a configuration that could be honoured.
    pub(crate) fn closed_chains(&self) -> usize {
        let Some(snapshot) = self.snapshot.load() else {
            return 0;
        };
        let chains = snapshot.main.chains.values();
        chains
            .filter(|slot| matches!(&**slot.peek(), FilterChain::Closed(_)))
            .count()
    }

    /// Starts the drain without ending the process: from now on not ready, and clients are told to go elsewhere.
    pub(crate) fn drain(&self) {
        self.drain.start();
    }

    /// Somebody wants it to look unhealthy, or no longer does.
    pub(crate) fn fail(&self, failed: bool) {
        self.failed.store(failed, Ordering::Relaxed);
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_started()
    }

    /// Returns when the hesitation is over; says so then if there is anything that can't be honoured.
    pub(crate) async fn hesitate(self) {
        tokio::time::sleep(HESITATION).await;
        let closed = self.closed_chains();
        if closed > 0 {
            tracing::error!(
                closed,
                "taking traffic although services are closed whose configuration was refused; see /problems"
            );
        }
    }

    /// # Errors
    /// What is missing.
    pub(crate) fn check(&self) -> Result<(), Cow<'static, str>> {
        if self.is_draining() {
            return Err("draining".into());
        }
        if self.is_failed() {
            return Err("told to fail by /healthcheck/fail".into());
        }
        if let Some(trouble) = self.vitals.trouble() {
            return Err(trouble.into());
        }
        if self.live.load(Ordering::Relaxed) {
            return Ok(());
        }
        if self.snapshot.load().is_none() {
            return Err("no configuration yet".into());
        }
        if !self.tls.ready() {
            return Err("no certificate yet".into());
        }
        if self.started.elapsed() < HESITATION && self.closed_chains() > 0 {
            return Err("a service's configuration was refused; see /problems".into());
        }
        if self.started.elapsed() < LOOKUPS && self.untried_names.load(Ordering::Relaxed) > 0 {
            return Err("names of services are not looked up yet".into());
        }
        self.live.store(true, Ordering::Relaxed);
        Ok(())
    }
}
