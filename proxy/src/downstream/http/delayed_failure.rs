//! An answer that breaks off: what came of it reaches the client before the failure does.
//!
//! hyper and h2 throw away what they hold of an answer when its body fails, be it the head. So a failed body keeps its
//! failure until the connection's bytes have been written. That they have, the connection's stream sees when it is
//! flushed: hyper and h2 do that after they have written all they can, whenever the connection's task runs. A client
//! that doesn't read isn't waited for longer than the chain says.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Sleep;
use waypoint_filters::service::body::BodyError;

/// The failed answers of one connection.
pub(crate) struct DelayedFailures {
    /// How long a client may take to read what came (`delayed_close_timeout`).
    patience: Duration,
    awaited: AtomicBool,
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Flushes that somebody waited for.
    flushes: u64,
    waiting: Vec<Waker>,
    /// The connection's task.
    task: Option<Waker>,
}

impl DelayedFailures {
    pub(crate) fn new(patience: Duration) -> DelayedFailures {
        DelayedFailures {
            patience,
            awaited: AtomicBool::new(false),
            any: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Says which task flushes; once is enough.
    pub(crate) fn attended_by(&self, task: &Waker) {
        self.state.lock().task = Some(task.clone());
    }

    /// Whether an answer broke off.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// All that there was to write has been written.
    pub(crate) fn flushed(&self) {
        // Nobody waits, nearly always.
        if self.awaited.load(Ordering::Acquire) {
            let mut state = self.state.lock();
            self.awaited.store(false, Ordering::Relaxed);
            state.flushes += 1;
            for waker in std::mem::take(&mut state.waiting) {
                waker.wake();
            }
        }
    }
}

/// A failure that waits its turn.
pub(crate) struct DelayedFailure {
    error: Option<BodyError>,
    /// The flushes before it.
    seen: Option<u64>,
    patience: Pin<Box<Sleep>>,
}

impl DelayedFailure {
    pub(crate) fn new(error: BodyError, of: &DelayedFailures) -> DelayedFailure {
        DelayedFailure {
            error: Some(error),
            seen: None,
            patience: Box::pin(tokio::time::sleep(of.patience)),
        }
    }

    /// Ready after the next flush of the connection; `None` once it was told.
    pub(crate) fn poll(
        &mut self,
        delayed_failures: &DelayedFailures,
        cx: &mut Context<'_>,
    ) -> Poll<Option<BodyError>> {
        let over = self.patience.as_mut().poll(cx).is_ready();
        let mut state = delayed_failures.state.lock();
        let seen = *self.seen.get_or_insert_with(|| {
            // It may have nothing else to do.
            state.task.iter().for_each(Waker::wake_by_ref);
            state.flushes
        });
        if over || state.flushes > seen {
            delayed_failures.any.store(true, Ordering::Relaxed);
            return Poll::Ready(self.error.take());
        }
        if !state.waiting.iter().any(|w| w.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        delayed_failures.awaited.store(true, Ordering::Release);
        Poll::Pending
    }
}
