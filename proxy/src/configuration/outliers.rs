//! Looks at clusters that detect outliers: at once when an endpoint has a sign, and at their intervals.
//!
//! One task, on the control thread: whoever carries traffic only counts.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::configuration::Configurator;

/// So long between two looks, however many signs there are.
const PAUSE: Duration = Duration::from_millis(10);

/// Works for ever. `suspects` is told when an endpoint has a sign.
pub(crate) async fn run(suspects: Arc<Notify>, configurator: &RefCell<Configurator>) {
    let mut version = configurator.borrow().version();
    loop {
        let next = configurator.borrow_mut().look_for_outliers(Instant::now());
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            () = suspects.notified() => {}
            // Other clusters may have other intervals.
            Ok(()) = version.changed() => {}
            () = until(next) => {}
        }
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next.into()).await,
        None => std::future::pending().await,
    }
}
