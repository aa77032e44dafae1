//! The process that configuration is compiled for, as far as compiling needs one.
#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;

use waypoint_config::store::workloads::WorkloadIndex;
use waypoint_config::store::{OnRefused, Store};
use waypoint_filters::host::Host;
use waypoint_filters::host::detached::DetachedHost;

/// A store that keeps last good versions.
pub fn store() -> Store {
    store_that(OnRefused::Keep)
}

pub fn store_that(on_refused: OnRefused) -> Store {
    Store::new(
        Arc::new(DetachedHost::default()),
        WorkloadIndex::default(),
        on_refused,
    )
}

pub fn host() -> Arc<dyn Host> {
    Arc::new(DetachedHost::default())
}
