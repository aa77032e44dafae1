//! `istio.stats`: Istio's standard metrics with `reporter="waypoint"`.
//!
//! Handles are looked up by their labels once per connection and outcome (upstream, code, flags), and
//! kept with the connection: a request on a warm connection adds to atomics.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::format::FormatContext;
use crate::host::Host;
use crate::metrics::{Counter, Family, Histogram, Series};
use crate::record::istio_labels::labels;
use crate::record::istio_labels::{HTTP_LABELS, TCP_LABELS};
use crate::record::istio_overrides::{Labels, Overrides};
use crate::record::outcomes::Outcomes;
use crate::stream::connection::BindKey;
use crate::stream::recorder::Recorder;
use crate::stream::stream_info::{Capture, Protocol, StreamInfo, StreamState};
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::left_out;
use crate::xds::coverage::well_known::DURATION;
use crate::xds::omitted::{Omissions, OmittedKind};
use crate::xds::proto::{StatsPluginConfig, StatsReporter};
use crate::xds::rejected::Refusal;

thread_local! {
    /// What expressions say of a stream is put together here, so that it allocates nothing.
    static SAID: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Families {
    requests: Option<Metric<Counter>>,
    duration: Option<Metric<Histogram>>,
    request_bytes: Option<Metric<Histogram>>,
    response_bytes: Option<Metric<Histogram>>,
    request_messages: Option<Metric<Counter>>,
    response_messages: Option<Metric<Counter>>,
    opened: Option<Metric<Counter>>,
    closed: Option<Metric<Counter>>,
    received: Option<Metric<Counter>>,
    sent: Option<Metric<Counter>>,
}

/// A metric and its labels, where those aren't the standard ones.
struct Metric<S> {
    family: Arc<Family<S>>,
    labels: Option<Labels>,
}

impl<S: Series> Metric<S> {
    fn with(&self, standard: &[Arc<str>], expressions: &[Arc<str>]) -> S {
        match &self.labels {
            None => self.family.with(standard),
            Some(labels) => {
                let values = labels.values(standard, expressions);
                self.family.with_names(&labels.names, &values)
            }
        }
    }
}

struct IstioStats {
    families: Families,
    overrides: Overrides,
    key: BindKey,
}

pub(crate) static STATS_CONFIG: Table = Table {
    name: "stats.PluginConfig",
    fields: &[
        honoured(6, "disable_host_header_fallback"),
        honoured(7, "tcp_reporting_duration").of(&DURATION),
        honoured(8, "metrics").list().of(&METRIC_CONFIG),
        honoured(10, "reporter").only("SERVER_GATEWAY"),
    ],
    refused: "1 debug, 2 max_peer_cache_size, 3 stat_prefix, 4 field_separator, 5 value_separator, \
              9 definitions, 11 rotation_interval, 12 graceful_deletion_interval",
    required: &[],
};

static METRIC_CONFIG: Table = Table {
    name: "stats.MetricConfig",
    fields: &[
        left_out(
            1,
            "dimensions",
            "a label whose expression can't be honoured says `unknown`",
        )
        .map(),
        honoured(2, "name"),
        left_out(
            3,
            "tags_to_remove",
            "what is no standard label can't be removed",
        )
        .list(),
        left_out(4, "match", "Istio's own filter doesn't look at it"),
        honoured(5, "drop"),
    ],
    refused: "",
    required: &[],
};

/// Builds the recorder.
///
/// # Errors
/// Another reporter than a waypoint's. Overrides that can't be honoured are left out.
pub(crate) fn recorder(
    config: StatsPluginConfig,
    host: &Arc<dyn Host>,
    omissions: &Omissions,
) -> Result<Arc<dyn Recorder>, Refusal> {
    if config.reporter != i32::from(StatsReporter::ServerGateway) {
        return Err(Refusal::unsupported("reporter"));
    }
    if !config.disable_host_header_fallback {
        let refusal = Refusal::new(
            "disable_host_header_fallback",
            "destinations are not named after the host header",
        );
        omissions.add(OmittedKind::MetricOverride, refusal);
    }
    let overrides = Overrides::from_proto(&config.metrics, omissions);
    Ok(Arc::new(IstioStats {
        families: families(host, &overrides),
        overrides,
        key: BindKey::unique(),
    }))
}

fn families(host: &Arc<dyn Host>, overrides: &Overrides) -> Families {
    let metrics = host.metrics();
    let counter = |name: &'static str, help, labels| {
        let short = name.strip_prefix("istio_").unwrap_or(name);
        (!overrides.is_dropped(short)).then(|| Metric {
            family: metrics.counters(name, help, labels),
            labels: overrides.labels(short).cloned(),
        })
    };
    let histogram = |name: &'static str, help| {
        let short = name.strip_prefix("istio_").unwrap_or(name);
        (!overrides.is_dropped(short)).then(|| Metric {
            family: metrics.histograms(name, help, HTTP_LABELS),
            labels: overrides.labels(short).cloned(),
        })
    };
    let http = |name, help| counter(name, help, HTTP_LABELS);
    let tcp = |name, help| counter(name, help, TCP_LABELS);
    Families {
        requests: http("istio_requests_total", "Requests."),
        duration: histogram(
            "istio_request_duration_milliseconds",
            "Duration of requests in milliseconds.",
        ),
        request_bytes: histogram("istio_request_bytes", "Size of request bodies."),
        response_bytes: histogram("istio_response_bytes", "Size of response bodies."),
        request_messages: http(
            "istio_request_messages_total",
            "gRPC messages from clients.",
        ),
        response_messages: http("istio_response_messages_total", "gRPC messages to clients."),
        opened: tcp(
            "istio_tcp_connections_opened_total",
            "TCP connections opened.",
        ),
        closed: tcp(
            "istio_tcp_connections_closed_total",
            "TCP connections closed.",
        ),
        received: tcp("istio_tcp_received_bytes_total", "TCP bytes from clients."),
        sent: tcp("istio_tcp_sent_bytes_total", "TCP bytes to clients."),
    }
}

/// How often open TCP streams report their bytes (`tcp_reporting_duration`); not below a second.
pub(crate) fn reporting_interval(config: &StatsPluginConfig) -> Option<Duration> {
    let proto = config.tcp_reporting_duration.as_ref()?;
    let (seconds, nanos) = (proto.seconds.try_into().ok()?, proto.nanos.try_into().ok()?);
    let interval = Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos))?;
    Some(interval.max(Duration::from_secs(1)))
}

/// A connection's handles, by outcome.
#[derive(Default)]
struct Handles {
    http: Mutex<Outcomes<HttpHandles>>,
    tcp: Mutex<Option<Arc<TcpHandles>>>,
    /// TCP bytes reported already.
    received: AtomicU64,
    sent: AtomicU64,
}

struct HttpHandles {
    requests: Option<Counter>,
    duration: Option<Histogram>,
    request_bytes: Option<Histogram>,
    response_bytes: Option<Histogram>,
    request_messages: Option<Counter>,
    response_messages: Option<Counter>,
}

struct TcpHandles {
    closed: Option<Counter>,
    received: Option<Counter>,
    sent: Option<Counter>,
}

impl IstioStats {
    fn record_http(&self, stream: &StreamInfo, handles: &Handles, end: Instant) {
        let state = stream.state();
        let series = SAID.with_borrow_mut(|said| {
            said.clear();
            let context = FormatContext::recorded(stream, &state, end);
            self.overrides.say(&context, said);
            self.http_handles(stream, &state, handles, said)
        });
        if let Some(requests) = &series.requests {
            requests.add(1);
        }
        if let Some(duration) = &series.duration {
            let took = end.saturating_duration_since(stream.start).as_secs_f64() * 1000.0;
            match state.trace.as_ref().filter(|trace| trace.sampled) {
                None => duration.observe(took),
                Some(trace) => duration.observe_in_trace(took, trace.trace_id, SystemTime::now()),
            }
        }
        if let Some(bytes) = &series.request_bytes {
            bytes.observe(stream.bytes_received() as f64);
        }
        if let Some(bytes) = &series.response_bytes {
            bytes.observe(stream.bytes_sent() as f64);
        }
        if let Some(grpc) = &state.grpc {
            if let Some(messages) = &series.request_messages {
                messages.add(grpc.request_messages);
            }
            if let Some(messages) = &series.response_messages {
                messages.add(grpc.response_messages);
            }
        }
    }

    fn http_handles(
        &self,
        stream: &StreamInfo,
        state: &StreamState,
        handles: &Handles,
        said: &[u8],
    ) -> Arc<HttpHandles> {
        let find = |labels: &[Arc<str>]| {
            let told = Overrides::told(said);
            let f = &self.families;
            let counter = |metric: &Option<Metric<Counter>>| {
                let metric = metric.as_ref();
                metric.map(|metric| metric.with(labels, &told))
            };
            let histogram = |metric: &Option<Metric<Histogram>>| {
                let metric = metric.as_ref();
                metric.map(|metric| metric.with(labels, &told))
            };
            let grpc = state.grpc.is_some();
            HttpHandles {
                requests: counter(&f.requests),
                duration: histogram(&f.duration),
                request_bytes: histogram(&f.request_bytes),
                response_bytes: histogram(&f.response_bytes),
                request_messages: grpc.then(|| counter(&f.request_messages)).flatten(),
                response_messages: grpc.then(|| counter(&f.response_messages)).flatten(),
            }
        };
        let mut known = handles.http.lock();
        known.series(state, said, || labels(stream, state, true), find)
    }

    fn tcp_handles(&self, stream: &StreamInfo, handles: &Handles) -> Arc<TcpHandles> {
        let mut known = handles.tcp.lock();
        if let Some(found) = &*known {
            return found.clone();
        }
        let state = stream.state();
        let labels = labels(stream, &state, false);
        let mut said = Vec::new();
        let context = FormatContext::recorded(stream, &state, Instant::now());
        self.overrides.say(&context, &mut said);
        let told = Overrides::told(&said);
        drop(state);
        let counter = |metric: &Option<Metric<Counter>>| {
            let metric = metric.as_ref();
            metric.map(|metric| metric.with(&labels, &told))
        };
        if let Some(opened) = counter(&self.families.opened) {
            opened.add(1);
        }
        let made = Arc::new(TcpHandles {
            closed: counter(&self.families.closed),
            received: counter(&self.families.received),
            sent: counter(&self.families.sent),
        });
        *known = Some(made.clone());
        made
    }

    fn report_tcp(&self, stream: &StreamInfo, handles: &Handles) -> Arc<TcpHandles> {
        let series = self.tcp_handles(stream, handles);
        for (counter, now, reported) in [
            (&series.received, stream.bytes_received(), &handles.received),
            (&series.sent, stream.bytes_sent(), &handles.sent),
        ] {
            let before = reported.swap(now, Ordering::Relaxed);
            if let Some(counter) = counter {
                counter.add(now.saturating_sub(before));
            }
        }
        series
    }
}

impl Recorder for IstioStats {
    fn capture(&self) -> Capture {
        self.overrides.capture()
    }

    fn progress(&self, stream: &StreamInfo) {
        let handles = stream.connection.bound(self.key, Handles::default);
        self.report_tcp(stream, &handles);
    }

    fn record(&self, stream: &StreamInfo, end: Instant) {
        let handles = stream.connection.bound(self.key, Handles::default);
        if stream.protocol == Protocol::Tcp {
            let series = self.report_tcp(stream, &handles);
            if let Some(closed) = &series.closed {
                closed.add(1);
            }
        } else {
            self.record_http(stream, &handles, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Duration as DurationProto;

    use super::*;

    #[test]
    fn tcp_streams_report_as_often_as_is_said_and_not_below_a_second() {
        let interval = |seconds, nanos| {
            reporting_interval(&StatsPluginConfig {
                tcp_reporting_duration: Some(DurationProto { seconds, nanos }),
                ..StatsPluginConfig::default()
            })
        };
        assert_eq!(
            interval(15, 500_000_000),
            Some(Duration::from_millis(15_500))
        );
        assert_eq!(interval(0, 1), Some(Duration::from_secs(1)));
        assert_eq!(interval(-1, 0), None);
        assert_eq!(reporting_interval(&StatsPluginConfig::default()), None);
    }
}
