//! What the ports answer from.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3::Node;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use waypoint_config::store::received::Received;
use waypoint_filters::metrics::MetricRegistry;
use waypoint_hbone::tls::Tls;

use crate::lifecycle::readiness::Readiness;
use crate::logs::levels::LogLevels;

/// Pages that grow with the mesh and are made at the same time.
pub(crate) const LARGE_AT_ONCE: usize = 4;

/// Shared by all ports.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Arc<MetricRegistry>,
    pub(crate) tls: Tls,
    pub(crate) received: Received,
    /// What of the configuration isn't honoured.
    pub(crate) problems: Arc<Mutex<Vec<String>>>,
    /// As whom istiod knows this process; or would.
    pub(crate) node: Arc<Node>,
    pub(crate) hbone_addr: SocketAddr,
    pub(crate) admin_addr: SocketAddr,
    /// Threads for data.
    pub(crate) concurrency: usize,
    pub(crate) log_levels: LogLevels,
    pub(crate) started: Started,
    /// Told by `/quitquitquit`.
    pub(crate) quit: Arc<Notify>,
    /// Dumps are made one at a time: each takes some memory.
    pub(crate) dumps: Arc<Semaphore>,
    /// Other large pages, [`LARGE_AT_ONCE`] at a time.
    pub(crate) large: Arc<Semaphore>,
}

/// When the process began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started {
    pub(crate) at: SystemTime,
    pub(crate) instant: Instant,
}

impl Started {
    pub(crate) fn now() -> Started {
        Started {
            at: SystemTime::now(),
            instant: Instant::now(),
        }
    }
}
