//! All services that logs are sent to: equal configurations are one, with one exporter, which ends with the last log that has
//! it and sends what it still has.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::CommonGrpcAccessLogConfig;
use parking_lot::Mutex;

use crate::callout::Callout;
use crate::metrics::{CounterFamily, MetricRegistry};
use crate::telemetry::export::exporter::{Collector, Counts, Exported, Limits, Queue, exporter};
use crate::telemetry::export::exporters::Exporters;
use crate::telemetry::trace::providers::NodeNames;
use crate::xds::duration;
use crate::xds::rejected::Refusal;

/// Envoy's, where nothing is said: how long an entry waits, and bytes that are sent sooner.
const FLUSH_TIME: Duration = Duration::from_secs(1);
const FLUSH_BYTES: usize = 16 * 1024;
/// Of entries that wait while others are under way, so much goes out at once.
const BATCH_BYTES: usize = 1024 * 1024;
const BATCH_ENTRIES: usize = 4096;
const QUEUE_BYTES: usize = 8 * 1024 * 1024;
const QUEUE_ENTRIES: usize = 32 * 1024;

/// What logs to services are compiled with.
pub(crate) struct ServiceContext<'a> {
    pub(crate) services: &'a LogServices,
    pub(crate) node: &'a NodeNames,
    /// The way to the cluster with this name, whether there is one or not.
    pub(crate) cluster: &'a dyn Fn(&str) -> Callout,
}

/// An entry, encoded.
#[derive(Debug)]
pub(crate) struct Entry(pub(crate) Bytes);

impl Exported for Entry {
    const NAME: &'static str = "access log entries";

    fn size(&self) -> usize {
        size_of::<Entry>() + self.0.len()
    }
}

/// A service at work.
pub(crate) struct LogService {
    /// What its configuration says.
    said: Arc<[u8]>,
    pub(crate) queue: Queue<Entry>,
}

impl fmt::Debug for LogService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogService").field(&self.said).finish()
    }
}

/// A service as it is built.
pub(crate) struct Built {
    /// Of the cluster where it is.
    pub(crate) name: Arc<str>,
    pub(crate) collector: Box<dyn Collector<Entry>>,
    pub(crate) limits: Limits,
}

/// The services of the process.
pub struct LogServices {
    /// By what they say.
    shared: Mutex<HashMap<Arc<[u8]>, Weak<LogService>>>,
    exporters: Exporters,
    entries: Arc<CounterFamily>,
}

impl LogServices {
    pub fn new(metrics: &MetricRegistry) -> LogServices {
        LogServices {
            shared: Mutex::default(),
            exporters: Exporters::default(),
            entries: metrics.counters(
                "waypoint_access_log_entries_total",
                "Access log entries for services, by the service's cluster and by what became of them.",
                &["service", "result"],
            ),
        }
    }

    /// The service that says `said`.
    pub(crate) fn get(
        &self,
        said: &[u8],
        build: impl FnOnce() -> Result<Built, Refusal>,
    ) -> Result<Arc<LogService>, Refusal> {
        let mut shared = self.shared.lock();
        if let Some(service) = shared.get(said).and_then(Weak::upgrade) {
            return Ok(service);
        }
        let Built {
            name,
            collector,
            limits,
        } = build()?;
        let count = |result: &str| self.entries.with(&[name.clone(), result.into()]);
        let counts = Counts {
            sent: count("sent"),
            rejected: count("rejected"),
            failed: count("failed"),
            dropped: count("dropped"),
        };
        let (queue, exporter, handle) = exporter(name, limits, collector, counts);
        let said: Arc<[u8]> = said.into();
        let service = Arc::new(LogService {
            said: said.clone(),
            queue,
        });
        shared.retain(|_, service| service.strong_count() > 0);
        shared.insert(said, Arc::downgrade(&service));
        self.exporters.add(exporter, handle);
        Ok(service)
    }

    /// Runs the exporters.
    pub(crate) async fn run(&self) {
        self.exporters.run().await;
    }

    /// Has all that was handed over sent, as far as `time` allows.
    pub(crate) async fn flush(&self, time: Duration) {
        self.exporters.flush(time).await;
    }

    /// Services that can't be told anything at present, a line for each.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.exporters.problems()
    }
}

/// Bytes of a message with these entries, about.
pub(crate) fn room(entries: &[Entry]) -> usize {
    /// Of what stands around all, and around each.
    const AROUND: usize = 1024;
    const EACH: usize = 4;
    let bytes = entries.iter().map(|entry| entry.0.len() + EACH);
    AROUND + bytes.sum::<usize>()
}

/// When entries are sent.
pub(crate) fn limits(common: &CommonGrpcAccessLogConfig) -> Result<Limits, Refusal> {
    let time = duration::optional(&common.buffer_flush_interval, "buffer_flush_interval")?;
    if time.is_some_and(|time| time.is_zero()) {
        let reason = "must be longer than 0s";
        return Err(Refusal::new("buffer_flush_interval", reason));
    }
    let bytes = common.buffer_size_bytes.as_ref().map(|bytes| bytes.value);
    let bytes = bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    Ok(Limits {
        due_items: BATCH_ENTRIES,
        due_bytes: bytes.unwrap_or(FLUSH_BYTES),
        batch_items: BATCH_ENTRIES,
        batch_bytes: BATCH_BYTES,
        batch_time: time.unwrap_or(FLUSH_TIME),
        queue_items: QUEUE_ENTRIES,
        queue_bytes: QUEUE_BYTES,
    })
}
