//! The one narrow door through which filters reach the process around them.

use std::net::IpAddr;
use std::sync::Arc;

use crate::callout::Callouts;
use crate::metrics::MetricRegistry;
use crate::service::HttpService;
use crate::stream::peer::Peer;

/// Where access log lines go. Never blocks; lines that don't fit are dropped and counted.
pub trait LogSink: Send + Sync + 'static {
    /// One line, with its newline.
    fn write(&self, line: &[u8]);
}

/// What the process offers to filters while they are built and while they run.
pub trait Host: Send + Sync + 'static {
    /// The workload with this address.
    fn workload(&self, address: IpAddr) -> Option<Arc<Peer>>;

    /// The sink that writes to `path` (`/dev/stdout`, or a file).
    fn log_sink(&self, path: &str) -> Arc<dyn LogSink>;

    /// Where metrics are registered.
    fn metrics(&self) -> &Arc<MetricRegistry>;

    /// The way to other services. Filters ask their context for one to a cluster.
    fn callouts(&self) -> Arc<dyn Callouts>;

    /// The innermost service of a chain: the router.
    fn terminal(&self, terminal: Terminal) -> HttpService;
}

/// Which service ends a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// The router of service and workload chains.
    Router,
    /// The end of `connect_terminate`'s chain: a CONNECT that found its listener.
    Connect,
}
