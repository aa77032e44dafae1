//! Turns for work that costs processor time and that anybody can ask for: few at a time, the newest first.
//!
//! Between two turns whatever else is ready to run does so. Without, a thousand handshakes that come at once would all stand before
//! the next request of those who are already there. The newest first, because the oldest may have been given up, and
//! because who floods must not make others wait for what it left behind. A turn isn't held while a peer is waited
//! for: it lasts for one poll.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The turns. Clones are the same ones.
#[derive(Clone)]
pub(crate) struct Turns(Arc<Mutex<State>>);

struct State {
    free: usize,
    waiting: Vec<oneshot::Sender<Turn>>,
}

/// The right to one poll; without turns it is none any more.
struct Turn(Option<Turns>);

impl Turn {
    fn void(mut self) {
        self.0 = None;
    }
}

impl Turns {
    /// So many at a time.
    pub(crate) fn new(count: usize) -> Turns {
        Turns(Arc::new(Mutex::new(State {
            free: count.max(1),
            waiting: Vec::new(),
        })))
    }

    /// Runs `future`, each of its polls in a turn.
    pub(crate) async fn pace<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let woken = Arc::new(Woken {
            flag: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        let waker = Waker::from(woken.clone());
        loop {
            poll_fn(|cx| woken.poll(cx)).await;
            let turn = self.turn().await;
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            if let Poll::Ready(value) = polled {
                return value;
            }
            tokio::task::yield_now().await;
            drop(turn);
        }
    }

    async fn turn(&self) -> Turn {
        let given = {
            let mut state = self.0.lock();
            if state.free > 0 {
                state.free -= 1;
                return Turn(Some(self.clone()));
            }
            if state.waiting.len() == state.waiting.capacity() {
                // Those that gave up; looked for whenever the list would grow.
                state.waiting.retain(|waiting| !waiting.is_closed());
            }
            let (give, given) = oneshot::channel();
            state.waiting.push(give);
            given
        };
        match given.await {
            Ok(turn) => turn,
            // Nobody drops the list but with the last turn.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else {
            return;
        };
        loop {
            let next = {
                let mut state = turns.0.lock();
                match state.waiting.pop() {
                    Some(next) => next,
                    None => {
                        state.free += 1;
                        return;
                    }
                }
            };
            match next.send(Turn(Some(turns.clone()))) {
                Ok(()) => return,
                // It gave up; what it was to be given is given to another here.
                Err(unwanted) => unwanted.void(),
            }
        }
    }
}

/// Whether the paced future wants to be polled.
struct Woken {
    flag: AtomicBool,
    task: AtomicWaker,
}

impl Woken {
    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.task.register(cx.waker());
        match self.flag.swap(false, Ordering::AcqRel) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.flag.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_is_done_and_wakes_are_not_lost() {
        let turns = Turns::new(2);
        let mut all = tokio::task::JoinSet::new();
        for n in 0..200_u64 {
            let turns = turns.clone();
            all.spawn(async move {
                let work = async {
                    tokio::task::yield_now().await;
                    tokio::time::sleep(Duration::from_millis(n % 7)).await;
                    tokio::task::yield_now().await;
                    n
                };
                turns.pace(work).await
            });
        }
        let mut sum = 0;
        while let Some(done) = all.join_next().await {
            sum += done.unwrap();
        }
        assert_eq!(sum, 199 * 100);
        let state = turns.0.lock();
        assert_eq!((state.free, state.waiting.len()), (2, 0));
    }

    #[tokio::test]
    async fn others_run_between_two_turns() {
        let turns = Turns::new(1);
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..100 {
            let (turns, done) = (turns.clone(), done.clone());
            let work = async move {
                tokio::task::yield_now().await;
                done.fetch_add(1, Ordering::Relaxed);
            };
            tokio::spawn(async move { turns.pace(work).await });
        }
        // Once round for everybody: a few of the hundred, at most.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let done = done.load(Ordering::Relaxed);
        assert!(done < 50, "{done} stood before us");
    }

    #[tokio::test]
    async fn the_newest_is_first_and_who_gave_up_is_passed_over() {
        let turns = Turns::new(1);
        let first = turns.turn().await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for n in 0..4 {
            let (turns, order) = (turns.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _turn = turns.turn().await;
                order.lock().push(n);
            }));
            tokio::task::yield_now().await;
        }
        waiting[3].abort();
        assert!(waiting.pop().unwrap().await.unwrap_err().is_cancelled());
        drop(first);
        for waiting in waiting {
            waiting.await.unwrap();
        }
        assert_eq!(*order.lock(), [2, 1, 0]);
        assert_eq!(turns.0.lock().free, 1);
        // Those who gave up don't pile up.
        let _held = turns.turn().await;
        for _ in 0..1000 {
            let mut gives_up = Box::pin(turns.turn());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(gives_up.as_mut().poll(&mut cx).is_pending());
        }
        assert!(turns.0.lock().waiting.capacity() < 16);
    }
}
