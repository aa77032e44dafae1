//! Source pods that come and go by the ten thousand: what their series held is given back.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use waypoint_filters::metrics::{Limits, MetricRegistry};
use waypoint_proxy::allocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const PODS: usize = 10_000;
const LABELS: &[&str] = &[
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "destination_workload",
    "destination_service",
    "destination_service_name",
    "response_code",
];

/// What was asked for and not given back. jemalloc's own books aren't in it: they grow by 2 MiB at a time, and never shrink.
fn in_use() -> usize {
    tikv_jemalloc_ctl::epoch::advance().unwrap();
    tikv_jemalloc_ctl::stats::allocated::read().unwrap()
}

/// One request of each pod, as Istio's metrics count it.
fn come(registry: &MetricRegistry, round: usize) {
    let requests = registry.counters("istio_requests_total", "-", LABELS);
    let histograms = [
        "istio_request_duration_milliseconds",
        "istio_request_bytes",
        "istio_response_bytes",
    ]
    .map(|name| registry.histograms(name, "-", LABELS));
    for pod in 0..PODS {
        let labels: Vec<Arc<str>> = LABELS
            .iter()
            .map(|label| format!("{label}-of-job-{round}-{pod}").into())
            .collect();
        requests.with(&labels).add(1);
        for histogram in &histograms {
            histogram.with(&labels).observe(7.0);
        }
    }
}

#[test]
fn memory_is_where_it_was_after_ten_thousand_pods_have_come_and_gone() {
    let registry = MetricRegistry::new(Limits::DEFAULT);
    let (start, mut now) = (in_use(), Instant::now());
    let mut after = Vec::new();
    for round in 0..3 {
        come(&registry, round);
        let with_pods = in_use() - start;
        assert!(with_pods > 20 << 20, "{with_pods}");
        registry.expire(now);
        now += Limits::DEFAULT.idle + Duration::from_secs(1);
        registry.expire(now);
        let left = in_use().saturating_sub(start);
        println!("{with_pods} bytes with {PODS} pods' series, {left} without");
        assert!(left < with_pods / 10, "{left} of {with_pods}");
        after.push(left);
    }
    let told = registry.encode();
    assert!(told.contains("waypoint_metric_series{metric=\"istio_requests_total\"} 0\n"));
    assert!(after[2] <= after[0] + (2 << 20), "{after:?}");
}
