//! The one narrow door through which filters reach the process around them.

pub mod detached;

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;

use crate::callout::Callouts;
use crate::metrics::MetricRegistry;
use crate::security::jwt::provider::providers::Providers;
use crate::service::HttpService;
use crate::stream::peer::Peer;
use crate::stream::recorder::Recorder;
use crate::telemetry::log_service::services::LogServices;
use crate::telemetry::trace::providers::TraceProviders;

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

    /// The issuers of tokens, with their keys.
    fn jwt_providers(&self) -> &Providers;

    /// The tracers, with their exporters.
    fn trace_providers(&self) -> &TraceProviders;

    /// The services that logs are sent to, with their exporters.
    fn log_services(&self) -> &LogServices;

    /// The header in which a client is told which policy denied its request; `None`: it isn't told.
    fn denial_header(&self) -> Option<HeaderName> {
        None
    }

    /// Who is told of every stream of service and workload chains, besides what their configuration says.
    fn witness(&self) -> Option<Arc<dyn Recorder>> {
        None
    }

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
