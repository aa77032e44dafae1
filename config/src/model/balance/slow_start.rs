//! Slow start (warm-up): a new endpoint gets little at first, and its whole share when its window is over.
//!
//! While an endpoint of those among which is chosen is in its window, turns and comparisons give way to draws by share, whatever the
//! policy: shares change all the time then. Weights are Envoy's.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::cluster::SlowStartConfig;
use waypoint_filters::xds::coverage::well_known::{DURATION, PERCENT};
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::balance::runtime_double::RUNTIME_DOUBLE;
use crate::model::duration;

/// How new endpoints begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    /// 1: linear; above, sooner.
    aggression: f64,
    /// The part of its weight that an endpoint has at least.
    least: f64,
}

pub(crate) static SLOW_START_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.SlowStartConfig",
    fields: &[
        honoured(1, "slow_start_window").of(&DURATION),
        honoured(2, "aggression").of(&RUNTIME_DOUBLE),
        honoured(3, "min_weight_percent").of(&PERCENT),
    ],
    refused: "",
    required: &[],
};

impl SlowStart {
    /// `None`: endpoints begin with all of their weight.
    pub(crate) fn from_proto(proto: &SlowStartConfig) -> Result<Option<SlowStart>, Refusal> {
        let window = duration::limit(&proto.slow_start_window, "slow_start_window")?;
        let aggression = proto.aggression.as_ref().map_or(1.0, |a| a.default_value);
        if !aggression.is_finite() || aggression <= 0.0 {
            return Err(Refusal::new("aggression", "is not above 0"));
        }
        let least = proto.min_weight_percent.map_or(10.0, |p| p.value);
        if !(0.0..=100.0).contains(&least) {
            return Err(Refusal::new("min_weight_percent", "is not in 0..=100"));
        }
        Ok(window.map(|window| SlowStart {
            window,
            aggression,
            least: least / 100.0,
        }))
    }

    /// The part of its weight that an endpoint of this age has.
    pub(crate) fn part(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let age = age.max(Duration::from_millis(1)).as_secs_f64();
        let elapsed = (age / self.window.as_secs_f64()).min(1.0);
        elapsed.powf(1.0 / self.aggression).max(self.least)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::RuntimeDouble;
    use envoy_types::pb::envoy::r#type::v3::Percent;
    use envoy_types::pb::google::protobuf::Duration as DurationProto;

    use super::*;

    fn config(seconds: i64, aggression: f64, least: Option<f64>) -> SlowStartConfig {
        SlowStartConfig {
            slow_start_window: Some(DurationProto { seconds, nanos: 0 }),
            aggression: Some(RuntimeDouble {
                default_value: aggression,
                runtime_key: "(".into(),
            }),
            min_weight_percent: least.map(|value| Percent { value }),
        }
    }

    fn parts(aggression: f64, least: Option<f64>) -> [f64; 4] {
        let slow = SlowStart::from_proto(&config(100, aggression, least));
        let slow = slow.unwrap().unwrap();
        [0, 25, 81, 100].map(|age| {
            let part = slow.part(Duration::from_secs(age));
            (part * 1000.0).round() / 1000.0
        })
    }

    #[test]
    fn parts_grow_with_age() {
        assert_eq!(parts(1.0, None), [0.1, 0.25, 0.81, 1.0]);
        assert_eq!(parts(2.0, Some(0.0)), [0.003, 0.5, 0.9, 1.0]);
        assert_eq!(parts(1.0, Some(50.0)), [0.5, 0.5, 0.81, 1.0]);
    }

    #[test]
    fn without_a_window_there_is_none_and_nonsense_is_refused() {
        assert_eq!(SlowStart::from_proto(&config(0, 1.0, None)), Ok(None));
        let nothing = SlowStart::from_proto(&SlowStartConfig::default());
        assert_eq!(nothing, Ok(None));
        assert!(SlowStart::from_proto(&config(1, 0.0, None)).is_err());
        assert!(SlowStart::from_proto(&config(1, f64::NAN, None)).is_err());
        assert!(SlowStart::from_proto(&config(1, 1.0, Some(101.0))).is_err());
    }
}
