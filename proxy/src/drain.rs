//! Ending in good order: one signal that everything hears, and the count of what still runs.

use std::time::Duration;

use tokio::sync::watch;

/// Gives the signal.
pub(crate) struct Drain {
    signal: watch::Sender<bool>,
}

/// Hears the signal; a clone held is something that still runs.
#[derive(Clone)]
pub(crate) struct Watch {
    signal: watch::Receiver<bool>,
}

/// A drain that nobody started yet, and a watch on it.
pub(crate) fn channel() -> (Drain, Watch) {
    let (sender, receiver) = watch::channel(false);
    (Drain { signal: sender }, Watch { signal: receiver })
}

impl Drain {
    /// Gives the signal, and waits until every watch is gone, at most for `limit`.
    /// Says whether all ended in time.
    pub(crate) async fn finish(self, limit: Duration) -> bool {
        let _ = self.signal.send(true);
        tokio::time::timeout(limit, self.signal.closed())
            .await
            .is_ok()
    }
}

impl Watch {
    /// Returns once the signal was given, or can't be given any more.
    pub(crate) async fn signaled(mut self) {
        let _ = self.signal.wait_for(|signaled| *signaled).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_those_who_still_run_and_no_longer_than_told() {
        let (drain, watch) = channel();
        let running = tokio::spawn(async move {
            watch.clone().signaled().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
        assert!(drain.finish(Duration::from_secs(3)).await);
        assert!(running.await.is_ok());

        let (drain, _watch) = channel();
        assert!(!drain.finish(Duration::from_millis(20)).await);
    }
}
