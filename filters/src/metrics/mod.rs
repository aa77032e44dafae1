//! Metrics: bounded families of series behind one registry.
//!
//! Series are handles: looked up by their labels once, counted through atomics after. What a family has no room for
//! ([`Limits`]) is counted in series whose labels say `overflow`, but for where the traffic went. A counter or histogram that
//! nobody holds a handle to, and that didn't change for the idle time, is dropped, unless all its labels are the code's own.

mod cell;
pub mod exposition;
mod family;
mod histogram;
mod limits;
mod series;
mod table;
mod text;

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::metrics::exposition::{Collector, Exposition, Kind, Sample};
use crate::metrics::family::AnyFamily;
pub use family::Family;
pub use histogram::Histogram;
pub use limits::Limits;
pub use series::{Counter, Gauge, Series};
pub use text::{Format, TextWriter};

/// A family of counters.
pub type CounterFamily = Family<Counter>;
/// A family of gauges.
pub type GaugeFamily = Family<Gauge>;
/// A family of histograms.
pub type HistogramFamily = Family<Histogram>;

/// The process's metrics.
#[derive(Default)]
pub struct MetricRegistry {
    limits: Limits,
    families: Mutex<BTreeMap<&'static str, Arc<dyn AnyFamily>>>,
    collectors: Mutex<Vec<Arc<dyn Collector>>>,
}

impl MetricRegistry {
    pub fn new(limits: Limits) -> MetricRegistry {
        MetricRegistry {
            limits,
            ..MetricRegistry::default()
        }
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The family of counters with this name, made on first use.
    pub fn counters(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Arc<CounterFamily> {
        self.family(name, help, labels)
    }

    /// The family of gauges with this name, made on first use. Their series stay.
    pub fn gauges(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Arc<GaugeFamily> {
        self.family(name, help, labels)
    }

    /// The family of histograms with this name, made on first use.
    pub fn histograms(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Arc<HistogramFamily> {
        self.family(name, help, labels)
    }

    fn family<S: Series>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Arc<Family<S>> {
        let made = || Arc::new(Family::<S>::new(name, help, labels, self.limits));
        let mut families = self.families.lock();
        let known = families.entry(name).or_insert_with(|| made());
        let known: Arc<dyn Any + Send + Sync> = known.clone();
        // Names are fixed in the code: none stands for two kinds.
        known.downcast().unwrap_or_else(|_| made())
    }

    /// A counter without labels.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.counters(name, help, &[]).with(&[])
    }

    /// What is looked at when somebody asks. Its families are its own: no name is told twice.
    pub fn register(&self, collector: impl Collector + 'static) {
        self.collectors.lock().push(Arc::new(collector));
    }

    /// Tells everything, families by name. No lock is held while `out` writes.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn tell(&self, out: &mut dyn Exposition) -> io::Result<()> {
        let families: Vec<_> = self.families.lock().values().cloned().collect();
        for family in &families {
            family.tell(out)?;
        }
        let collectors = self.collectors.lock().clone();
        for collector in collectors {
            collector.collect(out)?;
        }
        tell_folded(&families, out)
    }

    /// Writes everything as text.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: impl io::Write, format: Format) -> io::Result<()> {
        let mut writer = TextWriter::new(out, format);
        self.tell(&mut writer)?;
        writer.finish()?.flush()
    }

    /// Tells one family; nothing, where nothing was ever counted in it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn tell_family(&self, name: &str, out: &mut dyn Exposition) -> io::Result<()> {
        let family = self.families.lock().get(name).cloned();
        family.map_or(Ok(()), |family| family.tell(out))
    }

    /// Prometheus' text format.
    pub fn encode(&self) -> String {
        let mut out = Vec::new();
        // Writing to memory doesn't fail.
        let _ = self.write(&mut out, Format::Prometheus);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Has counters begin at 0 again.
    pub fn reset_counters(&self) {
        let families: Vec<_> = self.families.lock().values().cloned().collect();
        families.iter().for_each(|family| family.reset());
    }

    /// Drops series that nobody holds and that didn't change for the idle time before `now`.
    pub fn expire(&self, now: Instant) {
        let families: Vec<_> = self.families.lock().values().cloned().collect();
        for family in families {
            family.expire(now, self.limits.idle);
        }
    }
}

/// What the bound did: families that have, or had, no room.
fn tell_folded(families: &[Arc<dyn AnyFamily>], out: &mut dyn Exposition) -> io::Result<()> {
    out.family(
        "waypoint_metric_series",
        "Series of each metric, without those that say overflow.",
        Kind::Gauge,
    )?;
    for family in families {
        let series = Sample::Whole(family.series() as u64);
        out.series(&[("metric", family.name())], &series)?;
    }
    // From 0 where it can happen: an alert is to see the first time.
    let mut full = families.iter().filter(|family| family.folds());
    let Some(first) = full.next() else {
        return Ok(());
    };
    out.family(
        "waypoint_metric_series_folded_total",
        "Times that a metric had no room for a series: what it would have counted is in one that says overflow.",
        Kind::Counter,
    )?;
    for family in [first].into_iter().chain(full) {
        let times = Sample::Whole(family.folded());
        out.series(&[("metric", family.name())], &times)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn small() -> MetricRegistry {
        MetricRegistry::new(Limits {
            max_series: 10,
            idle: Duration::from_secs(10),
        })
    }

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
    fn series_with_other_labels_stand_beside_the_familys_and_are_bounded_as_well() {
        let registry = small();
        let family = registry.counters("x_total", "X.", &["id"]);
        family.with(&["a".into()]).add(1);
        let names: Vec<Arc<str>> = vec!["reporter".into(), "method".into()];
        family
            .with_names(&names, &["waypoint".into(), "GET".into()])
            .add(2);
        let text = registry.encode();
        assert!(text.contains("x_total{id=\"a\"} 1\n"), "{text}");
        assert!(
            text.contains("x_total{reporter=\"waypoint\",method=\"GET\"} 2\n"),
            "{text}"
        );
        for i in 0..14 {
            let values: Vec<Arc<str>> = vec!["waypoint".into(), format!("{i}").into()];
            family.with_names(&names, &values).add(1);
        }
        let text = registry.encode();
        let told = "x_total{reporter=\"waypoint\",method=\"overflow\"} 5\n";
        assert!(text.contains(told), "{text}");
        let told = "waypoint_metric_series_folded_total{metric=\"x_total\"} 5\n";
        assert!(text.contains(told), "{text}");
        assert!(text.contains("waypoint_metric_series{metric=\"x_total\"} 11\n"));
    }

    #[test]
    fn what_is_folded_says_where_it_went_while_that_is_bounded() {
        let registry = small();
        let labels = &["source_workload", "destination_service"];
        let family = registry.counters("x_total", "X.", labels);
        let count = |source: usize, service: &str| {
            let source: Arc<str> = format!("job-{source}").into();
            family.with(&[source, service.into()]).add(1);
        };
        for source in 0..20 {
            count(source, "a");
        }
        for service in ["b", "c", "d"] {
            count(99, service);
        }
        let text = registry.encode();
        let told = |service: &str, n: u32| {
            let line = format!(
                "x_total{{source_workload=\"overflow\",destination_service=\"{service}\"}} {n}\n"
            );
            assert!(text.contains(&line), "{line}{text}");
        };
        told("a", 10);
        told("b", 1);
        told("overflow", 2);
    }

    #[test]
    fn series_expire_when_nobody_holds_them() {
        let registry = small();
        let family = registry.counters("x_total", "X.", &["id"]);
        let _held = family.with(&["held".into()]);
        family.with(&["gone".into()]).add(1);
        let now = Instant::now();
        // Two rounds: the first notes the value, the second sees that it did not change.
        registry.expire(now);
        registry.expire(now + registry.limits().idle);
        let text = registry.encode();
        assert!(text.contains("held") && !text.contains("gone"), "{text}");
    }

    #[test]
    fn what_is_seldom_counted_and_what_is_still_true_stay() {
        let registry = small();
        let failures = registry.counters("failures_total", "Failures.", &["result"]);
        failures.with(&["failed".into()]).add(1);
        let gauges = registry.gauges("chains", "Chains.", &["of"]);
        gauges.with(&["closed".into()]).set(1);
        let now = Instant::now();
        registry.expire(now);
        registry.expire(now + registry.limits().idle * 9);
        let text = registry.encode();
        assert!(
            text.contains("failures_total{result=\"failed\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("chains{of=\"closed\"} 1\n"), "{text}");
    }

    #[test]
    fn exemplars_are_told_where_they_are_asked_for() {
        let registry = MetricRegistry::default();
        let family = registry.histograms("ms", "Ms.", &[]);
        let series = family.with(&[]);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(3);
        series.observe_in_trace(7.0, 1, at);
        series.observe_in_trace(0.1, 2, at);
        series.observe_in_trace(8.0, 3, at);
        series.observe(9.0);
        assert!(!registry.encode().contains("trace_id"));
        let mut out = Vec::new();
        assert!(registry.write(&mut out, Format::OpenMetrics).is_ok());
        let text = String::from_utf8_lossy(&out);
        for told in [
            "ms_bucket{le=\"0.5\"} 1 # {trace_id=\"00000000000000000000000000000002\"} 0.1 3.000\n",
            "ms_bucket{le=\"5.0\"} 1\n",
            "ms_bucket{le=\"10.0\"} 4 # {trace_id=\"00000000000000000000000000000003\"} 8 3.000\n",
            "ms_count 4\n",
        ] {
            assert!(text.contains(told), "{told}{text}");
        }
    }

    #[test]
    fn collectors_are_asked_each_time() {
        let registry = MetricRegistry::default();
        registry.register(|out: &mut dyn Exposition| {
            out.family("now", "Now.", Kind::Gauge)?;
            out.series(&[], &Sample::Real(-1.5))
        });
        assert!(registry.encode().contains("# TYPE now gauge\nnow -1.5\n"));
    }
}
