//! Who calls whom, as it was seen: Istio's standard metrics added up by caller and service.
//!
//! Numbers count from the process's start; whoever wants rates asks twice. Where a Telemetry object switches
//! `REQUEST_COUNT` off, nobody is seen to call.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value, json};
use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::metrics::exposition::{Exposition, Kind, Labels, Sample};

use crate::view::bounded;

/// Pairs of caller and service that are told, those with the most calls first.
const MAX_EDGES: usize = 500;
/// Workloads behind a service that are told for each caller.
const MAX_WORKLOADS: usize = 16;

/// Who calls what.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    principal: String,
    workload: String,
    namespace: String,
    /// The host; of traffic to no service, the workload.
    service: String,
    name: String,
    service_namespace: String,
    protocol: String,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
struct Edge {
    calls: f64,
    /// By class: no answer, 1xx, …, 5xx.
    classes: [f64; 6],
    /// Answered 403 by the waypoint itself.
    denied: f64,
    workloads: BTreeMap<String, f64>,
    /// Cumulative, as Prometheus has them.
    buckets: BTreeMap<u64, (f64, u64)>,
    timed: u64,
    milliseconds: f64,
    opened: f64,
    closed: f64,
    received: f64,
    sent: f64,
}

/// The map.
pub(crate) fn traffic(metrics: &MetricRegistry, uptime: std::time::Duration) -> Value {
    let mut edges: BTreeMap<Pair, Edge> = BTreeMap::new();
    let mut each = |name: &str, add: &dyn Fn(&mut Edge, &Metric<'_>)| {
        let edges = &mut edges;
        // Adding up doesn't fail.
        let _ = metrics.tell_family(name, &mut Adding { edges, add });
    };
    each("istio_requests_total", &Edge::add_requests);
    each("istio_request_duration_milliseconds", &Edge::add_durations);
    each("istio_tcp_connections_opened_total", &|edge, metric| {
        edge.opened += metric.value();
        edge.calls += metric.value();
    });
    each("istio_tcp_connections_closed_total", &|edge, metric| {
        edge.closed += metric.value();
        edge.add_workload(metric);
    });
    each("istio_tcp_received_bytes_total", &|edge, metric| {
        edge.received += metric.value();
    });
    each("istio_tcp_sent_bytes_total", &|edge, metric| {
        edge.sent += metric.value();
    });
    let mut edges: Vec<(Pair, Edge)> = edges.into_iter().collect();
    edges.sort_by(|(_, a), (_, b)| b.calls.total_cmp(&a.calls));
    let (edges, left_out) = bounded(edges.iter().map(|(p, e)| e.to_json(p)), MAX_EDGES);
    json!({
        "uptimeMilliseconds": uptime.as_millis() as u64,
        "edges": edges,
        "leftOut": left_out,
    })
}

/// A series.
struct Metric<'a> {
    labels: &'a Labels<'a>,
    sample: &'a Sample,
}

impl Metric<'_> {
    fn value(&self) -> f64 {
        match self.sample {
            Sample::Whole(value) => *value as f64,
            Sample::Real(value) => *value,
            Sample::Histogram(_) => 0.0,
        }
    }

    /// A label's value; empty where there is none.
    fn label(&self, name: &str) -> &str {
        let own = self.labels.iter().find(|(own, _)| *own == name);
        own.map_or("", |(_, value)| value)
    }

    /// As [`Metric::label`], but `unknown` is nothing.
    fn known(&self, name: &str) -> String {
        match self.label(name) {
            "unknown" => String::new(),
            value => value.to_owned(),
        }
    }
}

/// Adds the series of a family to the edges that they are of.
struct Adding<'a> {
    edges: &'a mut BTreeMap<Pair, Edge>,
    add: &'a dyn Fn(&mut Edge, &Metric<'_>),
}

impl Exposition for Adding<'_> {
    fn family(&mut self, _: &str, _: &str, _: Kind) -> io::Result<()> {
        Ok(())
    }

    fn series(&mut self, labels: &Labels<'_>, sample: &Sample) -> io::Result<()> {
        let metric = Metric { labels, sample };
        let edge = self.edges.entry(Pair::of(&metric)).or_default();
        (self.add)(edge, &metric);
        Ok(())
    }
}

impl Pair {
    fn of(metric: &Metric<'_>) -> Pair {
        let service = metric.known("destination_service");
        Pair {
            principal: metric.known("source_principal"),
            workload: metric.known("source_workload"),
            namespace: metric.known("source_workload_namespace"),
            service: match service.is_empty() {
                true => metric.known("destination_workload"),
                false => service,
            },
            name: metric.known("destination_service_name"),
            service_namespace: metric.known("destination_service_namespace"),
            protocol: metric.label("request_protocol").to_owned(),
        }
    }
}

impl Edge {
    fn add_requests(&mut self, metric: &Metric<'_>) {
        let count = metric.value();
        self.calls += count;
        let code: usize = metric.label("response_code").parse().unwrap_or(0);
        if let Some(class) = self.classes.get_mut(code / 100) {
            *class += count;
        }
        let grpc_denied = metric.label("grpc_response_status") == "7";
        let own = metric.known("destination_workload").is_empty();
        if own && (code == 403 || grpc_denied) {
            self.denied += count;
        }
        self.add_workload(metric);
    }

    fn add_workload(&mut self, metric: &Metric<'_>) {
        let workload = metric.known("destination_workload");
        if workload.is_empty() {
            return;
        }
        if self.workloads.len() < MAX_WORKLOADS || self.workloads.contains_key(&workload) {
            *self.workloads.entry(workload).or_default() += metric.value();
        }
    }

    fn add_durations(&mut self, metric: &Metric<'_>) {
        let Sample::Histogram(durations) = metric.sample else {
            return;
        };
        for &(bound, count) in &durations.buckets {
            let entry = self.buckets.entry(bound.to_bits()).or_insert((bound, 0));
            entry.1 += count;
        }
        self.timed += durations.count;
        self.milliseconds += durations.sum;
    }

    fn to_json(&self, pair: &Pair) -> Value {
        let [none, _, ok, redirected, client, server] = self.classes;
        let buckets = self
            .buckets
            .values()
            .map(|(bound, count)| json!([bound, count]));
        json!({
            "source": {
                "principal": pair.principal,
                "workload": pair.workload,
                "namespace": pair.namespace,
            },
            "destination": {
                "service": pair.service,
                "name": pair.name,
                "namespace": pair.service_namespace,
            },
            "protocol": pair.protocol,
            "calls": self.calls,
            "codes": {"none": none, "2xx": ok, "3xx": redirected, "4xx": client, "5xx": server},
            "denied": self.denied,
            "workloads": self.workloads,
            "durations": {
                "buckets": buckets.collect::<Vec<_>>(),
                "count": self.timed,
                "sumMilliseconds": self.milliseconds,
            },
            "connections": {"opened": self.opened, "closed": self.closed},
            "bytes": {"received": self.received, "sent": self.sent},
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    const LABELS: &[&str] = &[
        "source_principal",
        "destination_service",
        "destination_workload",
        "request_protocol",
        "response_code",
    ];

    #[test]
    fn calls_add_up_by_caller_and_service() {
        let metrics = MetricRegistry::default();
        let requests = metrics.counters("istio_requests_total", "Requests.", LABELS);
        let durations =
            metrics.histograms("istio_request_duration_milliseconds", "Durations.", LABELS);
        for (workload, code, count) in [
            ("reviews-v1", "200", 9),
            ("reviews-v2", "200", 1),
            ("reviews-v2", "503", 2),
            ("unknown", "403", 4),
        ] {
            let labels = ["spiffe://td/ns/a/sa/b", "reviews", workload, "http", code];
            let labels = labels.map(Arc::from);
            requests.with(&labels).add(count);
            durations.with(&labels).observe(7.0);
        }
        let told = traffic(&metrics, Duration::from_secs(2));
        let edge = &told["edges"][0];
        assert_eq!(told["edges"].as_array().map(Vec::len), Some(1));
        assert_eq!(edge["calls"], 16.0);
        assert_eq!(edge["codes"]["2xx"], 10.0);
        assert_eq!(edge["codes"]["5xx"], 2.0);
        assert_eq!(edge["denied"], 4.0);
        assert_eq!(
            edge["workloads"],
            json!({"reviews-v1": 9.0, "reviews-v2": 3.0})
        );
        assert_eq!(edge["durations"]["count"], 4);
        assert_eq!(edge["durations"]["buckets"][3], json!([10.0, 4]));
        assert_eq!(edge["source"]["principal"], "spiffe://td/ns/a/sa/b");
    }
}
