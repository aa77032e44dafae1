//! A host for filters without a process around them: tests compile and run chains with it, and give it what they need of
//! one.

use std::net::IpAddr;
use std::sync::Arc;

use crate::callout::{
    CalloutCluster, CalloutError, CalloutErrorKind, CalloutFuture, CalloutLimits, Callouts, Content,
};
use crate::host::{Host, LogSink, Terminal};
use crate::metrics::MetricRegistry;
use crate::security::jwt::provider::providers::Providers;
use crate::service::body::Body;
use crate::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
use crate::stream::peer::Peer;
use crate::telemetry::log_service::services::LogServices;
use crate::telemetry::trace::providers::{NodeNames, TraceProviders};

/// It knows no workload, writes no log, has no cluster, and answers requests with nothing.
pub struct DetachedHost {
    metrics: Arc<MetricRegistry>,
    jwt_providers: Providers,
    trace_providers: TraceProviders,
    log_services: LogServices,
    callouts: Arc<dyn Callouts>,
    terminal: Box<dyn Fn(Terminal) -> HttpService + Send + Sync>,
}

impl Default for DetachedHost {
    fn default() -> DetachedHost {
        let metrics = Arc::<MetricRegistry>::default();
        DetachedHost {
            jwt_providers: Providers::new(&metrics),
            trace_providers: TraceProviders::new(NodeNames::default(), &metrics),
            log_services: LogServices::new(&metrics),
            metrics,
            callouts: Arc::new(Nothing),
            terminal: Box::new(|_| HttpService::new(Nothing)),
        }
    }
}

impl DetachedHost {
    /// Callouts go there.
    #[must_use]
    pub fn with_callouts(self, callouts: Arc<dyn Callouts>) -> DetachedHost {
        DetachedHost { callouts, ..self }
    }

    /// Chains end there.
    #[must_use]
    pub fn with_terminal(
        self,
        terminal: impl Fn(Terminal) -> HttpService + Send + Sync + 'static,
    ) -> DetachedHost {
        DetachedHost {
            terminal: Box::new(terminal),
            ..self
        }
    }

    /// Metrics are registered there.
    #[must_use]
    pub fn with_metrics(self, metrics: Arc<MetricRegistry>) -> DetachedHost {
        DetachedHost { metrics, ..self }
    }
}

impl Host for DetachedHost {
    fn workload(&self, _: IpAddr) -> Option<Arc<Peer>> {
        None
    }

    fn log_sink(&self, _: &str) -> Arc<dyn LogSink> {
        Arc::new(Nothing)
    }

    fn metrics(&self) -> &Arc<MetricRegistry> {
        &self.metrics
    }

    fn callouts(&self) -> Arc<dyn Callouts> {
        self.callouts.clone()
    }

    fn jwt_providers(&self) -> &Providers {
        &self.jwt_providers
    }

    fn trace_providers(&self) -> &TraceProviders {
        &self.trace_providers
    }

    fn log_services(&self) -> &LogServices {
        &self.log_services
    }

    fn terminal(&self, terminal: Terminal) -> HttpService {
        (self.terminal)(terminal)
    }
}

struct Nothing;

impl LogSink for Nothing {
    fn write(&self, _: &[u8]) {}
}

impl HttpCall for Nothing {
    fn call(&self, _: HttpRequest) -> ResponseFuture {
        ResponseFuture::ready(http::Response::new(Body::empty()))
    }
}

impl Callouts for Nothing {
    fn call(
        &self,
        cluster: Arc<dyn CalloutCluster>,
        _: http::Request<Content>,
        _: CalloutLimits,
    ) -> CalloutFuture {
        Box::pin(std::future::ready(Err(CalloutError {
            kind: CalloutErrorKind::NoCluster,
            cluster: cluster.name().clone(),
            reason: None,
            unsent: true,
        })))
    }
}
