//! Keeps checks in step with the clusters that ask for some, and with their endpoints.
//!
//! What checks find is looked at where outliers are ([`outliers`](crate::configuration::outliers)).

use std::cell::RefCell;

use crate::configuration::Configurator;
use crate::upstream::health::HealthChecks;

/// Works for ever.
pub(crate) async fn run(mut checks: HealthChecks, configurator: &RefCell<Configurator>) {
    let mut version = configurator.borrow().version();
    let changed = configurator.borrow().endpoints_changed();
    loop {
        checks.follow(&configurator.borrow().checked_clusters());
        tokio::select! {
            Ok(()) = version.changed() => {}
            // A lookup found other addresses, or an endpoint that nobody lists failed.
            () = changed.notified() => {}
        }
    }
}
