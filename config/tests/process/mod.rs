//! The process that configuration is compiled for, as far as compiling needs one.
#![allow(dead_code, unreachable_pub)]

use std::net::IpAddr;
use std::sync::Arc;

use waypoint_config::store::workloads::WorkloadIndex;
use waypoint_config::store::{OnRefused, Store};
use waypoint_filters::callout::{
    CalloutCluster, CalloutError, CalloutErrorKind, CalloutFuture, CalloutLimits, Callouts, Content,
};
use waypoint_filters::host::{Host, LogSink, Terminal};
use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::service::body::Body;
use waypoint_filters::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
use waypoint_filters::stream::peer::Peer;

/// A store that keeps last good versions.
pub fn store() -> Store {
    store_that(OnRefused::Keep)
}

pub fn store_that(on_refused: OnRefused) -> Store {
    Store::new(
        Arc::new(Process::default()),
        WorkloadIndex::default(),
        on_refused,
    )
}

pub fn host() -> Arc<dyn Host> {
    Arc::new(Process::default())
}

#[derive(Default)]
struct Process {
    metrics: Arc<MetricRegistry>,
}

struct Nowhere;

impl LogSink for Nowhere {
    fn write(&self, _line: &[u8]) {}
}

impl HttpCall for Nowhere {
    fn call(&self, _request: HttpRequest) -> ResponseFuture {
        ResponseFuture::ready(http::Response::new(Body::empty()))
    }
}

impl Callouts for Nowhere {
    fn call(
        &self,
        cluster: Arc<dyn CalloutCluster>,
        _request: http::Request<Content>,
        _limits: CalloutLimits,
    ) -> CalloutFuture {
        Box::pin(std::future::ready(Err(CalloutError {
            kind: CalloutErrorKind::NoCluster,
            cluster: cluster.name().clone(),
            reason: None,
            unsent: true,
        })))
    }
}

impl Host for Process {
    fn workload(&self, _address: IpAddr) -> Option<Arc<Peer>> {
        None
    }

    fn log_sink(&self, _path: &str) -> Arc<dyn LogSink> {
        Arc::new(Nowhere)
    }

    fn metrics(&self) -> &Arc<MetricRegistry> {
        &self.metrics
    }

    fn callouts(&self) -> Arc<dyn Callouts> {
        Arc::new(Nowhere)
    }

    fn terminal(&self, _terminal: Terminal) -> HttpService {
        HttpService::new(Nowhere)
    }
}
