//! Ending in good order, in steps that everything hears.
//!
//! *Draining*: readiness fails and clients are told to go elsewhere, but whoever comes all the same is served: a
//! mesh learns late that a waypoint is going, and a request that arrives meanwhile must not be lost. *Ending*: nothing
//! new is taken, what is idle is closed, and what runs gets a last time. Then it is *over*: what still runs closes both of its
//! ends and is written down.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How long each step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainTimes {
    /// New connections are taken and idle ones kept for this long, from the drain's start.
    pub open: Duration,
    /// And after that for as long as any connection is left.
    pub until_unused: bool,
    /// What still runs then may take this long to end.
    pub finish: Duration,
}

impl DrainTimes {
    /// Ends as soon as nothing runs, at the latest after `limit`.
    #[must_use]
    pub fn at_most(limit: Duration) -> DrainTimes {
        DrainTimes {
            open: Duration::ZERO,
            until_unused: false,
            finish: limit,
        }
    }

    /// Serves whoever comes for `time`, and gives what runs then as long again.
    #[must_use]
    pub fn open_for(time: Duration) -> DrainTimes {
        DrainTimes {
            open: time,
            until_unused: false,
            finish: time,
        }
    }

    /// For somebody who waits for the end: nothing new is taken from now on.
    #[must_use]
    pub fn hurried(&self) -> DrainTimes {
        DrainTimes::at_most(self.finish.max(self.open))
    }
}

/// For idle connections to end in good order, whatever [`DrainTimes::finish`] says.
const CLOSING: Duration = Duration::from_millis(500);
/// For what is cut off to be written down.
const CUTTING: Duration = Duration::from_millis(250);
/// A connection that was never used when the end comes is kept for so long: its first request may be on its way.
pub(crate) const LAST_CALL: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    Draining,
    Ending,
    Over,
}

/// Gives the signals. Clones are the same drain.
#[derive(Clone)]
pub(crate) struct Drain {
    stage: watch::Sender<Stage>,
    started: Arc<OnceLock<Instant>>,
    /// Its receivers are the [`Watch`]es: what still runs.
    running: watch::Sender<()>,
}

/// Hears the signals; a clone held is something that still runs.
#[derive(Clone)]
pub(crate) struct Watch {
    stage: watch::Receiver<Stage>,
    _running: watch::Receiver<()>,
}

impl Drain {
    /// A drain that nobody started yet.
    pub(crate) fn new() -> Drain {
        Drain {
            stage: watch::channel(Stage::Running).0,
            started: Arc::default(),
            running: watch::channel(()).0,
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch {
            stage: self.stage.subscribe(),
            _running: self.running.subscribe(),
        }
    }

    /// Begins, without ending anything. Says when that was; a second time does nothing.
    pub(crate) fn start(&self) -> Instant {
        let started = *self.started.get_or_init(Instant::now);
        self.advance(Stage::Draining);
        started
    }

    pub(crate) fn is_started(&self) -> bool {
        *self.stage.borrow() >= Stage::Draining
    }

    /// Goes through both steps. The time runs from the start, if somebody has begun before. Says whether all ended
    /// in time.
    pub(crate) async fn finish(&self, times: &DrainTimes) -> bool {
        tokio::time::sleep_until(self.start() + times.open).await;
        if times.until_unused {
            self.running.closed().await;
        }
        self.advance(Stage::Ending);
        let ended = tokio::time::timeout(times.finish.max(CLOSING), self.running.closed()).await;
        if ended.is_err() {
            self.advance(Stage::Over);
            let _ = tokio::time::timeout(CUTTING, self.running.closed()).await;
        }
        ended.is_ok()
    }

    /// Returns when nothing new is to be taken.
    pub(crate) fn ending(&self) -> impl Future<Output = ()> + use<> {
        reached(self.stage.subscribe(), Stage::Ending)
    }

    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let later = *stage < to;
            *stage = (*stage).max(to);
            later
        });
    }
}

impl Watch {
    /// Returns once clients are to be told.
    pub(crate) fn draining(&self) -> impl Future<Output = ()> + use<> {
        reached(self.stage.clone(), Stage::Draining)
    }

    /// Returns once idle connections are to be closed.
    pub(crate) fn ending(&self) -> impl Future<Output = ()> + use<> {
        reached(self.stage.clone(), Stage::Ending)
    }

    /// Returns once what still runs is to be cut off.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + use<> {
        reached(self.stage.clone(), Stage::Over)
    }

    /// For a connection on which many things go on: when it is to send GOAWAY. That is when it drains and has been used, for
    /// whoever comes now comes for something; at the end in any case.
    pub(crate) fn until_goaway(&self) -> (Used, impl Future<Output = ()> + use<>) {
        let used = Used(Arc::new(Notify::new()));
        let first = used.clone();
        let (draining, ending) = (self.draining(), self.ending());
        let until_goaway = async move {
            // One after the other: until the drain, each turn of a connection's task asks for one thing alone.
            draining.await;
            tokio::select! {
                () = ending => {}
                () = first.0.notified() => {}
            }
        };
        (used, until_goaway)
    }
}

/// Whether a connection has been used.
#[derive(Clone)]
pub(crate) struct Used(Arc<Notify>);

impl Used {
    pub(crate) fn mark(&self) {
        self.0.notify_one();
    }
}

/// Returns once the stage was reached, or can't be reached any more.
async fn reached(mut signal: watch::Receiver<Stage>, stage: Stage) {
    let _ = signal.wait_for(|now| *now >= stage).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(60);

    #[tokio::test(start_paused = true)]
    async fn waits_for_those_who_still_run_and_no_longer_than_told() {
        let drain = Drain::new();
        let watch = drain.watch();
        let running = tokio::spawn(async move {
            watch.ending().await;
            tokio::time::sleep(STEP).await;
        });
        assert!(drain.finish(&DrainTimes::at_most(100 * STEP)).await);
        assert!(running.await.is_ok());

        let drain = Drain::new();
        let _watch = drain.watch();
        let start = Instant::now();
        assert!(!drain.finish(&DrainTimes::at_most(2 * CLOSING)).await);
        assert_eq!(start.elapsed(), 2 * CLOSING + CUTTING);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_by_itself_is_told_that_it_is_over() {
        let drain = Drain::new();
        let watch = drain.watch();
        let stream = tokio::spawn(async move {
            watch.over().await;
            "written down"
        });
        assert!(!drain.finish(&DrainTimes::at_most(STEP)).await);
        assert!(stream.is_finished());
        assert_eq!(stream.await.ok(), Some("written down"));
    }

    #[test]
    fn a_hurried_end_gives_what_runs_its_time() {
        let times = DrainTimes::open_for(STEP);
        assert_eq!((times.open, times.finish), (STEP, STEP));
        assert_eq!(times.hurried(), DrainTimes::at_most(STEP));
    }

    #[tokio::test(start_paused = true)]
    async fn stays_open_from_its_start_for_as_long_as_told() {
        let drain = Drain::new();
        let watch = drain.watch();
        let start = drain.start();
        assert!(drain.is_started());
        watch.draining().await;
        tokio::time::sleep(2 * STEP).await;
        assert_eq!(drain.start(), start, "the first start counts");
        let ended = tokio::spawn(async move {
            watch.ending().await;
            start.elapsed()
        });
        let times = DrainTimes {
            open: 4 * STEP,
            until_unused: false,
            finish: Duration::ZERO,
        };
        assert!(drain.finish(&times).await);
        let after = ended.await.unwrap_or_default();
        assert_eq!(after, 4 * STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn stays_open_until_unused_and_for_the_least_time() {
        for used in [8 * STEP, Duration::ZERO] {
            let drain = Drain::new();
            let watch = drain.watch();
            let start = drain.start();
            tokio::spawn(async move {
                tokio::time::sleep(used).await;
                drop(watch);
            });
            let times = DrainTimes {
                open: 4 * STEP,
                until_unused: true,
                finish: Duration::ZERO,
            };
            assert!(drain.finish(&times).await);
            assert_eq!(start.elapsed(), used.max(4 * STEP));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_says_goodbye_after_its_first_use_or_at_the_end() {
        let drain = Drain::new();
        let (_never_marked, until_goaway) = drain.watch().until_goaway();
        let unused = tokio::spawn(until_goaway);
        let (marked, until_goaway) = drain.watch().until_goaway();
        let used = tokio::spawn(until_goaway);
        marked.mark();
        tokio::time::sleep(STEP).await;
        assert!(!used.is_finished() && !unused.is_finished());
        drain.start();
        assert!(used.await.is_ok());
        tokio::time::sleep(STEP).await;
        assert!(!unused.is_finished());
        drain.finish(&DrainTimes::at_most(STEP)).await;
        assert!(unused.await.is_ok());
    }
}
