//! Waiting for something that comes about by itself, with an end.
//!
//! Patience is generous, since a story that waits for what must happen costs its time only where it fails, and the
//! machine may have much else to do.

use std::time::{Duration, Instant};

/// How long anything may take to come about.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
///
/// # Panics
/// It doesn't come in time.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Asking has an end as well.
        let asked = tokio::time::timeout_at(deadline.into(), ask()).await;
        if let Ok(Some(answer)) = asked {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends a future that hangs.
///
/// # Panics
/// It doesn't end in time.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("did not end: {what}"),
    }
}

/// A turn of listening.
const LISTEN: Duration = Duration::from_millis(10);

/// What comes, unless nothing does for so long. It counts its own turns rather than the clock: where the machine is too
/// busy to let the listener run, it doesn't let the speaker run either.
pub async fn unless_silent<T>(time: Duration, coming: impl Future<Output = T>) -> Option<T> {
    let mut coming = std::pin::pin!(coming);
    for _ in 0..time.as_millis() / LISTEN.as_millis() {
        if let Ok(came) = tokio::time::timeout(LISTEN, coming.as_mut()).await {
            return Some(came);
        }
    }
    None
}
