//! Waiting for something that comes about by itself, with an end.

use std::time::{Duration, Instant};

/// How long anything may take to come about.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Asks until there is an answer.
///
/// # Panics
/// It doesn't come in time.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
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
