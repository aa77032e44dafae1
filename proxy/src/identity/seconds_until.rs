//! A gauge that tells how many seconds are left until some time, as of when it is asked; negative after it.

use std::collections::HashMap;
use std::time::SystemTime;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};
use waypoint_filters::metrics::MetricRegistry;

type Until = Box<dyn Fn() -> Option<SystemTime> + Send + Sync>;

/// The gauge; without a time it isn't there.
pub(crate) struct SecondsUntil {
    desc: Desc,
    name: &'static str,
    help: &'static str,
    labels: &'static [(&'static str, &'static str)],
    until: Until,
}

impl SecondsUntil {
    pub(crate) fn register(
        metrics: &MetricRegistry,
        name: &'static str,
        help: &'static str,
        labels: &'static [(&'static str, &'static str)],
        until: impl Fn() -> Option<SystemTime> + Send + Sync + 'static,
    ) {
        let names = labels.iter().map(|(name, _)| (*name).to_owned()).collect();
        let registered =
            Desc::new(name.into(), help.into(), names, HashMap::new()).and_then(|desc| {
                metrics.register(Box::new(SecondsUntil {
                    desc,
                    name,
                    help,
                    labels,
                    until: Box::new(until),
                }))
            });
        if let Err(error) = registered {
            tracing::error!(name, %error, "the metric can't be registered");
        }
    }
}

impl Collector for SecondsUntil {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(until) = (self.until)() else {
            return Vec::new();
        };
        let mut gauge = Gauge::default();
        gauge.set_value(match until.duration_since(SystemTime::now()) {
            Ok(left) => left.as_secs_f64().floor(),
            Err(past) => -past.duration().as_secs_f64().floor(),
        });
        let mut metric = Metric::default();
        metric.set_gauge(gauge);
        let pair = |(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        metric.set_label(self.labels.iter().map(pair).collect());
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(MetricType::GAUGE);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn it_counts_down_and_below_zero() {
        let metrics = MetricRegistry::default();
        let until = Arc::new(Mutex::new(None));
        let source = until.clone();
        let labels = &[("resource_name", "default")];
        SecondsUntil::register(&metrics, "left", "Left.", labels, move || *source.lock());
        assert!(!metrics.encode().contains("left"));
        let now = SystemTime::now();
        *until.lock() = Some(now + Duration::from_millis(90_500));
        let text = metrics.encode();
        assert!(
            text.contains("left{resource_name=\"default\"} 90\n"),
            "{text}"
        );
        *until.lock() = Some(now - Duration::from_secs(5));
        let text = metrics.encode();
        assert!(text.contains("# TYPE left gauge"), "{text}");
        assert!(text.contains("} -5\n"), "{text}");
    }
}
