//! How long it is from the end of one check to the next: by what the last one found, and whether anybody uses the cluster.
//!
//! Near a change of an endpoint's standing the edge intervals hold. A cluster that no connection was ever made to, checks aside,
//! is checked rarely, at any edge. Nothing here is shorter than a millisecond.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HealthCheck as HealthCheckProto;
use envoy_types::pb::google::protobuf::Duration as DurationProto;
use waypoint_filters::xds::rejected::Refusal;

use crate::model::active_health::Transition;
use crate::model::duration;

/// The times between checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    healthy: Duration,
    healthy_edge: Duration,
    unhealthy: Duration,
    unhealthy_edge: Duration,
    no_traffic: Duration,
    no_traffic_healthy: Duration,
    jitter: Duration,
    jitter_percent: u32,
    initial_jitter: Duration,
}

/// Where nothing else is said of a cluster that nobody uses.
const NO_TRAFFIC: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(1);

impl Intervals {
    pub(crate) fn from_proto(proto: &HealthCheckProto) -> Result<Intervals, Refusal> {
        let or = |value: &Option<DurationProto>, field, default| {
            let given = duration::optional(value, field)?;
            Ok::<Duration, Refusal>(given.unwrap_or(default))
        };
        let healthy = or(&proto.interval, "interval", Duration::ZERO)?;
        if healthy.is_zero() {
            return Err(Refusal::new("interval", "is not above zero"));
        }
        let unhealthy = or(&proto.unhealthy_interval, "unhealthy_interval", healthy)?;
        let no_traffic = or(
            &proto.no_traffic_interval,
            "no_traffic_interval",
            NO_TRAFFIC,
        )?;
        Ok(Intervals {
            healthy,
            healthy_edge: or(
                &proto.healthy_edge_interval,
                "healthy_edge_interval",
                healthy,
            )?,
            unhealthy,
            unhealthy_edge: or(
                &proto.unhealthy_edge_interval,
                "unhealthy_edge_interval",
                unhealthy,
            )?,
            no_traffic,
            no_traffic_healthy: or(
                &proto.no_traffic_healthy_interval,
                "no_traffic_healthy_interval",
                no_traffic,
            )?,
            jitter: or(&proto.interval_jitter, "interval_jitter", Duration::ZERO)?,
            jitter_percent: proto.interval_jitter_percent,
            initial_jitter: or(&proto.initial_jitter, "initial_jitter", Duration::ZERO)?,
        })
    }

    /// Until the first check. `random` gives numbers of any size.
    pub fn before_first(&self, random: impl FnMut() -> u64) -> Duration {
        match self.initial_jitter.is_zero() {
            true => Duration::ZERO,
            false => self.jittered(Duration::ZERO, self.initial_jitter, random),
        }
    }

    /// Until the next check, after one that `passed` or didn't.
    pub fn after(
        &self,
        passed: bool,
        transition: Transition,
        has_traffic: bool,
        random: impl FnMut() -> u64,
    ) -> Duration {
        let pending = transition == Transition::Pending;
        let base = match (has_traffic, passed) {
            (true, true) if pending => self.healthy_edge,
            (true, true) => self.healthy,
            (true, false) if pending => self.unhealthy_edge,
            (true, false) => self.unhealthy,
            (false, true) if !pending => self.no_traffic_healthy,
            (false, _) => self.no_traffic,
        };
        self.jittered(base, self.jitter, random)
    }

    fn jittered(
        &self,
        base: Duration,
        jitter: Duration,
        mut random: impl FnMut() -> u64,
    ) -> Duration {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let relative = millis(base).saturating_mul(u64::from(self.jitter_percent)) / 100;
        let mut time = base;
        for most in [relative, millis(jitter)] {
            if most > 0 {
                time = time.saturating_add(Duration::from_millis(random() % most));
            }
        }
        time.max(SHORTEST)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Transition::{Changed, Pending, Unchanged};
    use super::*;
    use crate::model::cluster::health_check::tests::{seconds, tcp};

    fn after(proto: &HealthCheckProto, traffic: bool) -> [u64; 6] {
        let intervals = Intervals::from_proto(proto).unwrap();
        let cases = [
            (true, Unchanged),
            (true, Pending),
            (true, Changed),
            (false, Unchanged),
            (false, Pending),
            (false, Changed),
        ];
        cases.map(|(passed, transition)| {
            let time = intervals.after(passed, transition, traffic, || 0);
            time.as_secs()
        })
    }

    #[test]
    fn one_interval_is_for_everything_unless_others_are_said() {
        assert_eq!(after(&tcp(), true), [10; 6]);
        assert_eq!(after(&tcp(), false), [60; 6]);
        let some = HealthCheckProto {
            unhealthy_interval: seconds(5),
            no_traffic_interval: seconds(30),
            ..tcp()
        };
        assert_eq!(after(&some, true), [10, 10, 10, 5, 5, 5]);
        assert_eq!(after(&some, false), [30; 6]);
        let all = HealthCheckProto {
            unhealthy_edge_interval: seconds(4),
            healthy_edge_interval: seconds(3),
            no_traffic_healthy_interval: seconds(90),
            ..some
        };
        assert_eq!(after(&all, true), [10, 3, 10, 5, 4, 5]);
        assert_eq!(after(&all, false), [90, 30, 90, 30, 30, 30]);
    }

    #[test]
    fn jitter_is_added_by_part_and_by_time() {
        let of = |proto: &HealthCheckProto| Intervals::from_proto(proto).unwrap();
        let both = of(&HealthCheckProto {
            interval_jitter: seconds(1),
            interval_jitter_percent: 50,
            initial_jitter: seconds(2),
            ..tcp()
        });
        let time = |random: u64| both.after(true, Unchanged, true, || random);
        assert_eq!(time(0), Duration::from_secs(10));
        assert_eq!(time(999), Duration::from_millis(11_998));
        assert_eq!(time(4999), Duration::from_millis(10_000 + 4999 + 999));
        assert_eq!(both.before_first(|| 1999), Duration::from_millis(1999));
        assert_eq!(both.before_first(|| 0), SHORTEST);
        assert_eq!(of(&tcp()).before_first(|| 7), Duration::ZERO);
        let refusal = Intervals::from_proto(&HealthCheckProto {
            interval: seconds(0),
            ..tcp()
        });
        assert_eq!(refusal.unwrap_err().field.to_string(), "interval");
    }
}
