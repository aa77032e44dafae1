//! A gauge that tells how many seconds are left until some time, as of when it is asked; negative after it.

use std::time::SystemTime;

use waypoint_filters::metrics::MetricRegistry;
use waypoint_filters::metrics::exposition::{Exposition, Kind, Sample};

/// Registers the gauge; without a time it isn't there.
pub(crate) fn register(
    metrics: &MetricRegistry,
    name: &'static str,
    help: &'static str,
    labels: &'static [(&'static str, &'static str)],
    until: impl Fn() -> Option<SystemTime> + Send + Sync + 'static,
) {
    metrics.register(move |out: &mut dyn Exposition| {
        let Some(until) = until() else {
            return Ok(());
        };
        let seconds = match until.duration_since(SystemTime::now()) {
            Ok(left) => left.as_secs_f64().floor(),
            Err(past) => -past.duration().as_secs_f64().floor(),
        };
        out.family(name, help, Kind::Gauge)?;
        out.series(labels, &Sample::Real(seconds))
    });
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
        register(&metrics, "left", "Left.", labels, move || *source.lock());
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
