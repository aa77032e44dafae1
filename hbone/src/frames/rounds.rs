//! Turns of an identity's busy connections: few in a round, the others one after the other.
//!
//! A task that has used up its turn goes on when all others that were ready have run. That alone shares by task: beside a
//! hundred connections that are always busy, everybody waits for a hundred turns at each step of a request. So those of one
//! identity have [`PLACES`] for each thread in a round, and who finds none waits in line. Nothing is lost where nobody else wants to
//! run, and who doesn't use up a turn never waits.
//!
//! A place is held from when it is given to when the task runs next, and not for the turn itself: whatever a connection waits for by
//! then, it keeps no other from its turn.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Of one identity, for each thread for traffic.
const PLACES: usize = 4;

/// The places of one identity.
#[derive(Debug)]
pub(crate) struct Rounds(Arc<Semaphore>);

impl Rounds {
    pub(crate) fn new(workers: usize) -> Rounds {
        let places = PLACES.saturating_mul(workers.max(1));
        Rounds(Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))))
    }

    /// Resolves when the next turn begins. It is in line from its first poll on, and out of it when it is dropped.
    pub(crate) fn turn(&self) -> impl Future<Output = ()> + Send + use<> {
        let places = self.0.clone();
        async move {
            // Nobody closes it.
            let place = places.acquire().await;
            tokio::task::yield_now().await;
            drop(place);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A hundred that are always busy; what they did while another came round so often.
    async fn turns_beside(rounds: usize) -> usize {
        let (line, done) = (Arc::new(Rounds::new(1)), Arc::new(AtomicUsize::new(0)));
        let busy: Vec<_> = (0..100)
            .map(|_| {
                let (line, done) = (line.clone(), done.clone());
                tokio::spawn(async move {
                    loop {
                        line.turn().await;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        // All of them have begun.
        tokio::task::yield_now().await;
        let before = done.load(Ordering::Relaxed);
        for _ in 0..rounds {
            tokio::task::yield_now().await;
        }
        busy.iter().for_each(tokio::task::JoinHandle::abort);
        done.load(Ordering::Relaxed) - before
    }

    #[tokio::test]
    async fn beside_a_hundred_busy_ones_a_round_is_a_few_turns() {
        let turns = turns_beside(50).await;
        assert!((50..=100 * PLACES).contains(&turns), "{turns}");
    }

    #[tokio::test]
    async fn each_has_its_turn_in_order_and_who_is_gone_is_passed_over() {
        let line = Rounds::new(1);
        let mut waiting: Vec<_> = (0..50).map(|n| (n, Box::pin(line.turn()))).collect();
        for (_, turn) in &mut waiting {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(turn.as_mut().poll(&mut cx).is_pending());
        }
        waiting.retain(|(n, _)| n % 2 == 0);
        for (n, turn) in waiting {
            let in_time = tokio::time::timeout(std::time::Duration::from_secs(30), turn);
            assert!(in_time.await.is_ok(), "{n}");
        }
        assert_eq!(line.0.available_permits(), PLACES);
    }
}
