//! Metrics: bounded families of series behind one Prometheus registry.
//!
//! Series are handles: looked up by their labels once, counted through atomics after. A family holds at
//! most [`MAX_SERIES`]; what comes beyond that is counted in one series whose labels all say `overflow`.
//! A series that nobody holds a handle to, and that didn't change for the idle time, is dropped.

mod cell;
mod family;
mod histogram;
mod series;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TextEncoder};

pub use family::{Family, MAX_SERIES};
pub use histogram::Histogram;
pub use series::{Counter, Gauge, Series};

/// A family of counters.
pub type CounterFamily = Family<Counter>;
/// A family of gauges.
pub type GaugeFamily = Family<Gauge>;
/// A family of histograms.
pub type HistogramFamily = Family<Histogram>;

/// How long a series lives that nobody uses.
pub const IDLE: Duration = Duration::from_secs(3600);

/// The process's metrics.
pub struct MetricRegistry {
    registry: prometheus::Registry,
    counters: Mutex<HashMap<&'static str, Arc<CounterFamily>>>,
    gauges: Mutex<HashMap<&'static str, Arc<GaugeFamily>>>,
    histograms: Mutex<HashMap<&'static str, Arc<HistogramFamily>>>,
}

impl Default for MetricRegistry {
    fn default() -> MetricRegistry {
        MetricRegistry {
            registry: prometheus::Registry::new(),
            counters: Mutex::default(),
            gauges: Mutex::default(),
            histograms: Mutex::default(),
        }
    }
}

impl MetricRegistry {
    /// The family of counters with this name, made on first use.
    pub fn counters(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Arc<CounterFamily> {
        self.family(&self.counters, name, help, labels)
    }

    /// The family of gauges with this name, made on first use. A series that nobody holds, and that says the
    /// same for [`IDLE`], is dropped: keep the handle where that matters.
    pub fn gauges(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Arc<GaugeFamily> {
        self.family(&self.gauges, name, help, labels)
    }

    /// The family of histograms with this name, made on first use.
    pub fn histograms(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Arc<HistogramFamily> {
        self.family(&self.histograms, name, help, labels)
    }

    fn family<S: Series + Send + Sync + 'static>(
        &self,
        families: &Mutex<HashMap<&'static str, Arc<Family<S>>>>,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Arc<Family<S>> {
        let mut families = families.lock();
        families
            .entry(name)
            .or_insert_with(|| {
                let family = Arc::new(Family::new(name, help, labels));
                // Names are fixed in the code; a second registration cannot happen.
                let _ = self.registry.register(Box::new(Shared(family.clone())));
                family
            })
            .clone()
    }

    /// A counter without labels.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.counters(name, help, &[]).with(&[])
    }

    /// Anything else that collects itself.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<(), prometheus::Error> {
        self.registry.register(collector)
    }

    /// Prometheus' text format.
    pub fn encode(&self) -> String {
        let mut out = Vec::new();
        // Writing to memory doesn't fail; a family that can't be encoded is left out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Drops series that nobody holds and that didn't change since [`IDLE`] before `now`.
    pub fn expire(&self, now: Instant) {
        for family in self.counters.lock().values() {
            family.expire(now, IDLE);
        }
        for family in self.gauges.lock().values() {
            family.expire(now, IDLE);
        }
        for family in self.histograms.lock().values() {
            family.expire(now, IDLE);
        }
    }
}

/// A family as the registry collects it.
struct Shared<F>(Arc<F>);

impl<S: Series + Send + Sync> Collector for Shared<Family<S>> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_histograms_in_prometheus_text() {
        let registry = MetricRegistry::default();
        let counters = registry.counters("requests_total", "Requests.", &["code"]);
        counters.with(&["200".into()]).add(2);
        counters.with(&["200".into()]).add(1);
        registry
            .histograms("size_bytes", "Sizes.", &[])
            .with(&[])
            .observe(3.0);
        let text = registry.encode();
        assert!(
            text.contains("# TYPE requests_total counter\nrequests_total{code=\"200\"} 3\n"),
            "{text}"
        );
        assert!(text.contains("size_bytes_bucket{le=\"5\"} 1\n"), "{text}");
        assert!(text.contains("size_bytes_bucket{le=\"1\"} 0\n"), "{text}");
        assert!(
            text.contains("size_bytes_sum 3\nsize_bytes_count 1\n"),
            "{text}"
        );
    }

    #[test]
    fn series_are_bounded_and_expire_when_nobody_holds_them() {
        let registry = MetricRegistry::default();
        let family = registry.counters("x_total", "X.", &["id"]);
        let held = family.with(&["held".into()]);
        family.with(&["gone".into()]).add(1);
        let now = Instant::now();
        // Two rounds: the first notes the value, the second sees that it did not change.
        registry.expire(now);
        registry.expire(now + IDLE);
        let text = registry.encode();
        assert!(text.contains("held") && !text.contains("gone"), "{text}");
        held.add(1);
        for i in 0..MAX_SERIES + 10 {
            family.with(&[format!("{i}").into()]).add(1);
        }
        assert!(family.len() <= MAX_SERIES + 1);
        assert!(registry.encode().contains("x_total{id=\"overflow\"} 11\n"));
    }
}
