//! What the process offers to filters: workloads, log files, metrics, ways out, and the ends of chains.

use std::net::IpAddr;
use std::sync::Arc;

use waypoint_config::store::workloads::WorkloadIndex;
use waypoint_filters::callout::Callouts;
use waypoint_filters::host::{Host, LogSink, Terminal};
use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::service::HttpService;
use waypoint_filters::stream::peer::Peer;

use crate::logs::access_file::LogWriter;
use crate::router::terminals::Terminals;

/// The process as filters see it.
pub(crate) struct ProxyHost {
    pub(crate) workloads: WorkloadIndex,
    pub(crate) logs: Arc<LogWriter>,
    pub(crate) metrics: Arc<MetricRegistry>,
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

    fn terminal(&self, terminal: Terminal) -> HttpService {
        match terminal {
            Terminal::Router => self.terminals.router.clone(),
            Terminal::Connect => self.terminals.connect.clone(),
        }
    }
}
