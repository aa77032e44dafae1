//! What the ports answer from.

use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use waypoint_config::store::SnapshotHandle;
use waypoint_config::store::received::Received;
use waypoint_config::store::workloads::WorkloadIndex;
use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::security::jwt::provider::providers::Providers;
use waypoint_filters::telemetry::services::TelemetryServices;
use waypoint_hbone::tls::Tls;

use crate::admin::envoy_names::EnvoyNames;
use crate::admin::started::Started;
use crate::lifecycle::readiness::Readiness;
use crate::logs::levels::LogLevels;
use crate::logs::witness::Witness;
use crate::profiles::Profiles;

/// Pages that grow with the mesh and are made at the same time.
pub(crate) const LARGE_AT_ONCE: usize = 4;

/// Shared by all ports.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Arc<MetricRegistry>,
    pub(crate) tls: Tls,
    pub(crate) received: Received,
    pub(crate) snapshot: SnapshotHandle,
    /// The same by the names that Envoy has for it, and more.
    pub(crate) envoy: EnvoyNames,
    pub(crate) workloads: WorkloadIndex,
    /// What of the configuration isn't honoured.
    pub(crate) problems: Arc<Mutex<Vec<String>>>,
    /// Whose keys may be missing.
    pub(crate) jwt_providers: Arc<Providers>,
    /// Who may be away.
    pub(crate) telemetry: Arc<TelemetryServices>,
    /// What streams show.
    pub(crate) witness: Arc<Witness>,
    /// Where configuration comes from, in words.
    pub(crate) source: String,
    /// As whom istiod knows this process; or would.
    pub(crate) node: Arc<Node>,
    pub(crate) hbone_addr: SocketAddr,
    pub(crate) admin_addr: SocketAddr,
    /// Threads for data.
    pub(crate) concurrency: usize,
    pub(crate) log_levels: LogLevels,
    pub(crate) started: Started,
    pub(crate) profiles: Profiles,
    /// Told by `/quitquitquit`.
    pub(crate) quit: Arc<Notify>,
    /// Dumps are made one at a time: each takes some memory.
    pub(crate) dumps: Arc<Semaphore>,
    /// Other large pages, [`LARGE_AT_ONCE`] at a time.
    pub(crate) large: Arc<Semaphore>,
}
