//! Whether the threads still move that nothing goes on without.
//!
//! A thread for configuration or for the plain ports beats by itself. A worker for traffic is told by what the runtime counts of
//! it anyway: one that isn't parked and passes no turn is stuck. A thread named `watchdog` looks once a second and counts
//! looks, not time: a process that was stopped and goes on was not stuck. What is stuck makes the process unready, and
//! is the last resort's after that; what died is told at once.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::sync::watch;

use crate::logs::program::panicked_with;

/// How often the watchdog looks.
const LOOK: Duration = Duration::from_secs(1);
/// How often a thread beats that does so by itself.
const BEAT: Duration = Duration::from_millis(500);

/// Looks without a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Patience {
    /// Until the process isn't ready.
    unready: u32,
    /// Until the last resort.
    end: u32,
}

/// Reading manifests and compiling a large mesh take their time.
const SLOW: Patience = Patience {
    unready: 30,
    end: 120,
};
/// Nothing on the way of a request waits.
const FAST: Patience = Patience {
    unready: 10,
    end: 30,
};

/// What is done about threads that are stuck for good: called by the watchdog, with what is stuck.
#[derive(Clone)]
pub struct LastResort(Arc<dyn Fn(&str) + Send + Sync>);

impl LastResort {
    pub fn new(act: impl Fn(&str) + Send + Sync + 'static) -> LastResort {
        LastResort(Arc::new(act))
    }
}

impl Default for LastResort {
    /// It is told of, and readiness fails: who embeds a waypoint decides.
    fn default() -> LastResort {
        LastResort::new(|_| {})
    }
}

impl std::fmt::Debug for LastResort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LastResort")
    }
}

/// The state of a waypoint's threads. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Vitals(Arc<Shared>);

struct Shared {
    /// What doesn't move.
    stuck: Mutex<Option<String>>,
    /// What died.
    dead: watch::Sender<Option<String>>,
    control: AtomicU64,
    ports: AtomicU64,
    overload: AtomicU64,
}

/// A thread that beats by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beating {
    /// Configuration, certificates and housekeeping.
    Control,
    /// The plain ports.
    Ports,
    /// The overload manager, where there is a limit.
    Overload,
}

impl Vitals {
    pub(crate) fn new() -> Vitals {
        Vitals(Arc::new(Shared {
            stuck: Mutex::new(None),
            dead: watch::Sender::new(None),
            control: AtomicU64::new(0),
            ports: AtomicU64::new(0),
            overload: AtomicU64::new(0),
        }))
    }

    /// What is wrong, in words.
    pub(crate) fn trouble(&self) -> Option<String> {
        let dead = self.0.dead.borrow().clone();
        dead.or_else(|| self.0.stuck.lock().clone())
    }

    /// Returns when something has died, with what.
    pub(crate) async fn died(&self) -> String {
        let mut dead = self.0.dead.subscribe();
        loop {
            if let Some(what) = &*dead.borrow_and_update() {
                return what.clone();
            }
            if dead.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Something is gone that doesn't come back. The first counts.
    pub(crate) fn lose(&self, what: String) {
        tracing::error!(what, "the process can't go on like this");
        self.0.dead.send_if_modified(|dead| {
            let first = dead.is_none();
            if first {
                *dead = Some(what);
            }
            first
        });
    }

    /// Runs what must not panic.
    pub(crate) async fn guard<T>(&self, what: &str, future: impl Future<Output = T>) -> Option<T> {
        match AssertUnwindSafe(future).catch_unwind().await {
            Ok(value) => Some(value),
            Err(panic) => {
                self.lose(format!("{what}: {}", panicked_with(&*panic)));
                None
            }
        }
    }

    /// As [`Vitals::guard`], for a thread of its own.
    pub(crate) fn guard_thread(&self, what: &str, work: impl FnOnce()) {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(work)) {
            self.lose(format!("{what}: {}", panicked_with(&*panic)));
        }
    }

    /// A sign of life.
    pub(crate) fn beat_once(&self, who: Beating) {
        self.pulse(who).fetch_add(1, Ordering::Relaxed);
    }

    /// Beats for the current thread, until dropped.
    pub(crate) async fn beat(self, who: Beating) {
        loop {
            self.beat_once(who);
            tokio::time::sleep(BEAT).await;
        }
    }

    /// `None`: it isn't expected to beat, as the overload manager where nothing is limited.
    fn sign_of(&self, who: Beating) -> Option<u128> {
        let beats = self.pulse(who).load(Ordering::Relaxed);
        (who != Beating::Overload || beats > 0).then_some(beats.into())
    }

    fn pulse(&self, of: Beating) -> &AtomicU64 {
        match of {
            Beating::Control => &self.0.control,
            Beating::Ports => &self.0.ports,
            Beating::Overload => &self.0.overload,
        }
    }

    /// Starts the watchdog over these threads and the workers of `data`. It ends with the receiver of `stopped`.
    pub(crate) fn watch(
        &self,
        data: &Handle,
        last_resort: LastResort,
        stopped: std::sync::mpsc::Receiver<()>,
    ) -> std::io::Result<()> {
        let mut watchdog = Watchdog::new(self.clone(), data.metrics());
        let looking = move || {
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
                if let Some(what) = watchdog.look() {
                    (last_resort.0)(&what);
                }
            }
        };
        let watchdog = thread::Builder::new().name("watchdog".into());
        watchdog.spawn(looking).map(|_| ())
    }
}

struct Watchdog {
    vitals: Vitals,
    data: RuntimeMetrics,
    watched: Vec<Watched>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Beating(Beating),
    Worker(usize),
}

struct Watched {
    who: Who,
    patience: Patience,
    /// The last sign of life, and looks since.
    sign: Option<u128>,
    still: u32,
}

impl Watchdog {
    fn new(vitals: Vitals, data: RuntimeMetrics) -> Watchdog {
        let own = [
            (Beating::Control, SLOW),
            (Beating::Ports, SLOW),
            (Beating::Overload, FAST),
        ];
        let own = own.map(|(who, patience)| (Who::Beating(who), patience));
        let workers = (0..data.num_workers()).map(|n| (Who::Worker(n), FAST));
        let watched = own.into_iter().chain(workers);
        Watchdog {
            watched: watched
                .map(|(who, patience)| Watched {
                    who,
                    patience,
                    sign: None,
                    still: 0,
                })
                .collect(),
            vitals,
            data,
        }
    }

    /// Looks at all; says what is stuck for good.
    fn look(&mut self) -> Option<String> {
        let (mut stuck, mut lost) = (None, None);
        for watched in &mut self.watched {
            let sign = match watched.who {
                Who::Beating(who) => self.vitals.sign_of(who),
                Who::Worker(n) => sign_of(&self.data, n),
            };
            watched.see(sign);
            if watched.still >= watched.patience.unready {
                stuck.get_or_insert_with(|| watched.name());
            }
            if watched.still >= watched.patience.end {
                lost.get_or_insert_with(|| watched.name());
            }
        }
        let mut before = self.vitals.0.stuck.lock();
        match (&*before, &stuck) {
            (None, Some(what)) => tracing::error!(what, "a thread is stuck; not ready"),
            (Some(what), None) => tracing::warn!(what, "the thread that was stuck goes on"),
            _ => {}
        }
        *before = stuck;
        lost
    }
}

impl Watched {
    /// `None`: it waits for work.
    fn see(&mut self, sign: Option<u128>) {
        if sign.is_none() || sign != self.sign {
            self.still = 0;
        } else {
            self.still = self.still.saturating_add(1);
        }
        self.sign = sign;
    }

    fn name(&self) -> String {
        match self.who {
            Who::Beating(Beating::Control) => "the control thread is stuck".to_owned(),
            Who::Beating(Beating::Ports) => "the thread of the plain ports is stuck".to_owned(),
            Who::Beating(Beating::Overload) => "the overload manager is stuck".to_owned(),
            Who::Worker(n) => format!("data thread {n} is stuck"),
        }
    }
}

/// What of a worker grows with its turns; `None` while it is parked.
fn sign_of(data: &RuntimeMetrics, worker: usize) -> Option<u128> {
    let parked_and_back = data.worker_park_unpark_count(worker);
    let awake = parked_and_back.is_multiple_of(2);
    awake.then(|| data.worker_total_busy_duration(worker).as_nanos() + u128::from(parked_and_back))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    }

    fn beat(vitals: &Vitals) {
        for who in [Beating::Control, Beating::Ports] {
            vitals.pulse(who).fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_worker_that_blocks_is_told_of_and_others_are_not() {
        let runtime = runtime();
        let vitals = Vitals::new();
        let mut watchdog = Watchdog::new(vitals.clone(), runtime.handle().metrics());
        let mut looks = |n: u32| {
            let mut lost = None;
            for _ in 0..n {
                beat(&vitals);
                // A worker that could go on gets its time slice in between, also where many want one.
                thread::sleep(Duration::from_millis(10));
                lost = lost.or(watchdog.look());
            }
            lost
        };
        // Idle ones are parked, once they have started.
        thread::sleep(Duration::from_millis(200));
        assert_eq!(looks(FAST.end + 1), None);
        assert_eq!(vitals.trouble(), None);

        // Busy ones go on.
        let busy = runtime.spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(looks(FAST.end + 1), None);
        assert_eq!(vitals.trouble(), None);
        busy.abort();

        let (release, hang) = mpsc::channel::<()>();
        let (started, hangs) = mpsc::channel();
        runtime.spawn(async move {
            let _ = started.send(());
            let _ = hang.recv();
        });
        hangs.recv().unwrap();
        assert_eq!(looks(FAST.unready + 1), None);
        let trouble = vitals.trouble().unwrap();
        assert!(trouble.starts_with("data thread "), "{trouble}");
        assert_eq!(looks(FAST.end), Some(trouble));
        drop(release);
        thread::sleep(Duration::from_millis(50));
        looks(2);
        assert_eq!(vitals.trouble(), None, "it goes on");
    }

    #[test]
    fn a_thread_that_does_not_beat_is_stuck() {
        let runtime = runtime();
        let vitals = Vitals::new();
        let mut watchdog = Watchdog::new(vitals.clone(), runtime.handle().metrics());
        // Its workers have nothing to do, and are parked once they have started.
        thread::sleep(Duration::from_millis(200));
        for n in 0..=SLOW.end {
            vitals.pulse(Beating::Ports).fetch_add(1, Ordering::Relaxed);
            let lost = watchdog.look();
            assert_eq!(lost.is_some(), n == SLOW.end, "{n}");
            assert_eq!(vitals.trouble().is_some(), n >= SLOW.unready, "{n}");
        }
        assert!(vitals.trouble().unwrap().contains("control"));
    }

    #[test]
    fn the_overload_manager_is_watched_once_it_has_begun() {
        let runtime = runtime();
        let vitals = Vitals::new();
        let mut watchdog = Watchdog::new(vitals.clone(), runtime.handle().metrics());
        thread::sleep(Duration::from_millis(200));
        let mut looks = |n: u32| {
            let mut lost = None;
            for _ in 0..n {
                beat(&vitals);
                lost = lost.or(watchdog.look());
            }
            lost
        };
        assert_eq!(looks(FAST.end + 1), None, "there is none");
        vitals.beat_once(Beating::Overload);
        let lost = looks(FAST.end + 1);
        assert_eq!(lost.as_deref(), Some("the overload manager is stuck"));
        vitals.guard_thread("the overload manager", || {
            assert!(vitals.trouble().is_none(), "no memory");
        });
        let trouble = vitals.trouble();
        assert_eq!(trouble.as_deref(), Some("the overload manager: no memory"));
    }

    #[tokio::test]
    async fn a_panic_is_told_with_its_reason_and_not_forgotten() {
        let vitals = Vitals::new();
        let result = vitals.guard("certificates", async { 5 }).await;
        assert_eq!((result, vitals.trouble()), (Some(5), None));
        let panics = async { assert!(vitals.trouble().is_some(), "no {}", "certificate") };
        assert_eq!(vitals.guard("certificates", panics).await, None);
        vitals.lose("something else".into());
        assert_eq!(vitals.died().await, "certificates: no certificate");
        assert_eq!(vitals.trouble().unwrap(), "certificates: no certificate");
    }
}
