//! All tracers that are in use: equal ones are one, with one exporter, which ends with the last chain that has it and sends
//! what it still has.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::metrics::{CounterFamily, MetricRegistry};
use crate::stream::request_trace::Propagation;
use crate::telemetry::export::exporter::{Collector, Counts, Limits, Queue, exporter};
use crate::telemetry::export::exporters::Exporters;
use crate::telemetry::trace::context::Ids;
use crate::telemetry::trace::custom_tag::CustomTags;
use crate::telemetry::trace::span::Span;
use crate::xds::rejected::Refusal;

/// Envoy's batches; of what waits, more than Envoy keeps.
const LIMITS: Limits = Limits {
    due_items: 512,
    due_bytes: 1024 * 1024,
    batch_items: 512,
    batch_bytes: 1024 * 1024,
    batch_time: Duration::from_secs(5),
    queue_items: 8192,
    queue_bytes: 8 * 1024 * 1024,
};

/// What spans say of the process.
#[derive(Clone, Debug, Default)]
pub struct NodeNames {
    pub id: String,
    pub cluster: String,
}

/// A tracer's configuration, compiled.
pub(crate) struct Tracer {
    /// Of the cluster where the collector is.
    pub(crate) name: Arc<str>,
    pub(crate) collector: Box<dyn Collector<Span>>,
    pub(crate) ids: Ids,
    pub(crate) propagation: Propagation,
}

/// A tracer at work.
pub(crate) struct Provider {
    /// What its configuration says.
    said: Arc<[u8]>,
    pub(crate) ids: Ids,
    pub(crate) propagation: Propagation,
    pub(crate) queue: Queue<Span>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Provider").field(&self.said).finish()
    }
}

/// The tracers of the process.
pub struct TraceProviders {
    pub(crate) node: NodeNames,
    /// By what they say.
    shared: Mutex<HashMap<Arc<[u8]>, Weak<Provider>>>,
    /// By what they say.
    tags: Mutex<HashMap<Arc<[u8]>, Weak<CustomTags>>>,
    exporters: Exporters,
    spans: Arc<CounterFamily>,
}

impl TraceProviders {
    pub fn new(node: NodeNames, metrics: &MetricRegistry) -> TraceProviders {
        TraceProviders {
            node,
            shared: Mutex::default(),
            tags: Mutex::default(),
            exporters: Exporters::default(),
            spans: metrics.counters(
                "waypoint_trace_spans_total",
                "Spans, by the collector's cluster and by what became of them.",
                &["provider", "result"],
            ),
        }
    }

    /// The tracer that says `said`.
    pub(crate) fn get(
        &self,
        said: Vec<u8>,
        tracer: impl FnOnce() -> Result<Tracer, Refusal>,
    ) -> Result<Arc<Provider>, Refusal> {
        let mut shared = self.shared.lock();
        if let Some(provider) = shared.get(&*said).and_then(Weak::upgrade) {
            return Ok(provider);
        }
        let tracer = tracer()?;
        let count = |result: &str| self.spans.with(&[tracer.name.clone(), result.into()]);
        let counts = Counts {
            sent: count("sent"),
            rejected: count("rejected"),
            failed: count("failed"),
            dropped: count("dropped"),
        };
        let (queue, exporter, handle) = exporter(tracer.name, LIMITS, tracer.collector, counts);
        let said: Arc<[u8]> = said.into();
        let provider = Arc::new(Provider {
            said: said.clone(),
            ids: tracer.ids,
            propagation: tracer.propagation,
            queue,
        });
        shared.retain(|_, provider| provider.strong_count() > 0);
        shared.insert(said, Arc::downgrade(&provider));
        self.exporters.add(exporter, handle);
        Ok(provider)
    }

    /// The tags that say `said`.
    pub(crate) fn tags(&self, said: Vec<u8>, tags: impl FnOnce() -> CustomTags) -> Arc<CustomTags> {
        let mut shared = self.tags.lock();
        if let Some(tags) = shared.get(&*said).and_then(Weak::upgrade) {
            return tags;
        }
        let tags = Arc::new(tags());
        shared.retain(|_, tags| tags.strong_count() > 0);
        shared.insert(said.into(), Arc::downgrade(&tags));
        tags
    }

    /// Runs the exporters.
    pub(crate) async fn run(&self) {
        self.exporters.run().await;
    }

    /// Has all that was handed over sent, as far as `time` allows.
    pub(crate) async fn flush(&self, time: Duration) {
        self.exporters.flush(time).await;
    }

    /// Collectors that can't be told anything at present, a line for each.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.exporters.problems()
    }
}
