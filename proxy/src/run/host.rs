//! What the process offers to filters: workloads, log files, metrics, ways out, issuers of tokens, and the ends of chains.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;
use waypoint_config::store::workloads::WorkloadIndex;
use waypoint_filters::callout::Callouts;
use waypoint_filters::host::{Host, LogSink, Terminal};
use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::security::jwt::provider::providers::Providers;
use waypoint_filters::service::HttpService;
use waypoint_filters::stream::peer::Peer;
use waypoint_filters::stream::recorder::Recorder;
use waypoint_filters::telemetry::log_service::services::LogServices;
use waypoint_filters::telemetry::services::TelemetryServices;
use waypoint_filters::telemetry::trace::providers::TraceProviders;

use crate::logs::access_file::LogWriter;
use crate::logs::witness::Witness;
use crate::router::terminals::Terminals;

/// The process as filters see it.
pub(crate) struct ProxyHost {
    pub(crate) workloads: WorkloadIndex,
    pub(crate) logs: Arc<LogWriter>,
    pub(crate) metrics: Arc<MetricRegistry>,
    pub(crate) jwt_providers: Arc<Providers>,
    pub(crate) telemetry: Arc<TelemetryServices>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) denial_header: Option<HeaderName>,
    pub(crate) terminals: Terminals,
}

impl Host for ProxyHost {
    fn workload(&self, address: IpAddr) -> Option<Arc<Peer>> {
        self.workloads.lookup(address)
    }

    fn log_sink(&self, path: &str) -> Arc<dyn LogSink> {
        self.logs.sink(path)
    }

    fn metrics(&self) -> &Arc<MetricRegistry> {
        &self.metrics
    }

    fn callouts(&self) -> Arc<dyn Callouts> {
        self.terminals.callouts.clone()
    }

    fn jwt_providers(&self) -> &Providers {
        &self.jwt_providers
    }

    fn trace_providers(&self) -> &TraceProviders {
        &self.telemetry.traces
    }

    fn log_services(&self) -> &LogServices {
        &self.telemetry.logs
    }

    fn denial_header(&self) -> Option<HeaderName> {
        self.denial_header.clone()
    }

    fn witness(&self) -> Option<Arc<dyn Recorder>> {
        Some(self.witness.clone())
    }

    fn terminal(&self, terminal: Terminal) -> HttpService {
        match terminal {
            Terminal::Router => self.terminals.router.clone(),
            Terminal::Connect => self.terminals.connect.clone(),
        }
    }
}
