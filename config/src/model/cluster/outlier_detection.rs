//! `OutlierDetection`: when an endpoint is taken out because of its answers, and for how long.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection as OutlierDetectionProto;
use envoy_types::pb::google::protobuf::UInt32Value;
use waypoint_filters::xds::coverage::well_known::{BOOL_VALUE, DURATION, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::duration;
use crate::model::outlier::{Sign, Thresholds};

/// A compiled `OutlierDetection`.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierDetection {
    /// In a row.
    pub thresholds: Thresholds,
    /// How often endpoints are compared, and looked at for whether they may come back.
    pub(crate) interval: Duration,
    /// The first time that an endpoint is out; the second time it is twice that, up to `max_ejection_time`.
    pub(crate) base_ejection_time: Duration,
    pub(crate) max_ejection_time: Duration,
    pub(crate) max_ejection_time_jitter: Duration,
    /// At most so many of all are out.
    pub(crate) max_ejection_percent: u32,
    /// One may be out whatever `max_ejection_percent` says.
    pub(crate) always_eject_one: bool,
    /// Whether one that passes a check comes back.
    pub ends_with_passed_check: bool,
    pub(crate) success_rate: SuccessRate,
    pub(crate) failure_percentage: FailurePercentage,
    /// By sign, in how many percent of cases it has an effect.
    enforcing: [u32; 7],
}

/// Who does worse than most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SuccessRate {
    pub(crate) minimum_hosts: usize,
    pub(crate) request_volume: u32,
    /// So many standard deviations below the mean.
    pub(crate) factor: f64,
}

/// Who does badly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FailurePercentage {
    pub(crate) minimum_hosts: usize,
    pub(crate) request_volume: u32,
    pub(crate) threshold: f64,
}

pub(crate) static OUTLIER_DETECTION: Table = Table {
    name: "envoy.config.cluster.v3.OutlierDetection",
    fields: &[
        honoured(1, "consecutive_5xx").of(&UINT32_VALUE),
        honoured(2, "interval").of(&DURATION),
        honoured(3, "base_ejection_time").of(&DURATION),
        honoured(4, "max_ejection_percent").of(&UINT32_VALUE),
        honoured(5, "enforcing_consecutive_5xx").of(&UINT32_VALUE),
        honoured(6, "enforcing_success_rate").of(&UINT32_VALUE),
        honoured(7, "success_rate_minimum_hosts").of(&UINT32_VALUE),
        honoured(8, "success_rate_request_volume").of(&UINT32_VALUE),
        honoured(9, "success_rate_stdev_factor").of(&UINT32_VALUE),
        honoured(10, "consecutive_gateway_failure").of(&UINT32_VALUE),
        honoured(11, "enforcing_consecutive_gateway_failure").of(&UINT32_VALUE),
        honoured(12, "split_external_local_origin_errors"),
        honoured(13, "consecutive_local_origin_failure").of(&UINT32_VALUE),
        honoured(14, "enforcing_consecutive_local_origin_failure").of(&UINT32_VALUE),
        honoured(15, "enforcing_local_origin_success_rate").of(&UINT32_VALUE),
        honoured(16, "failure_percentage_threshold").of(&UINT32_VALUE),
        honoured(17, "enforcing_failure_percentage").of(&UINT32_VALUE),
        honoured(18, "enforcing_failure_percentage_local_origin").of(&UINT32_VALUE),
        honoured(19, "failure_percentage_minimum_hosts").of(&UINT32_VALUE),
        honoured(20, "failure_percentage_request_volume").of(&UINT32_VALUE),
        honoured(21, "max_ejection_time").of(&DURATION),
        honoured(22, "max_ejection_time_jitter").of(&DURATION),
        honoured(23, "successful_active_health_check_uneject_host").of(&BOOL_VALUE),
        honoured(25, "always_eject_one_host").of(&BOOL_VALUE),
    ],
    refused: "24 monitors, 26 detect_degraded_hosts",
    required: &[],
};

impl OutlierDetection {
    pub(crate) fn from_proto(proto: &OutlierDetectionProto) -> Result<OutlierDetection, Refusal> {
        let or = |value: &Option<UInt32Value>, default| value.map_or(default, |v| v.value);
        let time = |value, field, default| {
            Ok::<_, Refusal>(duration::optional(value, field)?.unwrap_or(default))
        };
        let base = time(
            &proto.base_ejection_time,
            "base_ejection_time",
            Duration::from_secs(30),
        )?;
        let interval = time(&proto.interval, "interval", Duration::from_secs(10))?;
        if interval < Duration::from_millis(1) {
            return Err(Refusal::new("interval", "is below a millisecond"));
        }
        Ok(OutlierDetection {
            thresholds: Thresholds {
                consecutive_5xx: or(&proto.consecutive_5xx, 5),
                consecutive_gateway_failure: or(&proto.consecutive_gateway_failure, 5),
                consecutive_local_origin_failure: or(&proto.consecutive_local_origin_failure, 5),
                split: proto.split_external_local_origin_errors,
            },
            interval,
            base_ejection_time: base,
            max_ejection_time: time(
                &proto.max_ejection_time,
                "max_ejection_time",
                base.max(Duration::from_secs(300)),
            )?,
            max_ejection_time_jitter: time(
                &proto.max_ejection_time_jitter,
                "max_ejection_time_jitter",
                Duration::ZERO,
            )?,
            max_ejection_percent: percent(&proto.max_ejection_percent, "max_ejection_percent", 10)?,
            always_eject_one: proto.always_eject_one_host.is_some_and(|v| v.value),
            ends_with_passed_check: proto
                .successful_active_health_check_uneject_host
                .is_none_or(|v| v.value),
            success_rate: SuccessRate {
                minimum_hosts: or(&proto.success_rate_minimum_hosts, 5) as usize,
                request_volume: or(&proto.success_rate_request_volume, 100),
                factor: f64::from(or(&proto.success_rate_stdev_factor, 1900)) / 1000.0,
            },
            failure_percentage: FailurePercentage {
                minimum_hosts: or(&proto.failure_percentage_minimum_hosts, 5) as usize,
                request_volume: or(&proto.failure_percentage_request_volume, 50),
                threshold: f64::from(percent(
                    &proto.failure_percentage_threshold,
                    "failure_percentage_threshold",
                    85,
                )?),
            },
            enforcing: enforcing(proto)?,
        })
    }

    /// In how many percent of cases a sign has an effect.
    pub(crate) fn enforcing(&self, sign: Sign) -> u64 {
        let percent = self.enforcing.get(sign as usize);
        percent.map_or(0, |percent| u64::from(*percent))
    }
}

fn enforcing(proto: &OutlierDetectionProto) -> Result<[u32; 7], Refusal> {
    let mut all = [0; 7];
    for (place, sign) in all.iter_mut().zip(Sign::ALL) {
        let (value, field, default) = match sign {
            Sign::Consecutive5xx => (
                &proto.enforcing_consecutive_5xx,
                "enforcing_consecutive_5xx",
                100,
            ),
            Sign::ConsecutiveGatewayFailure => (
                &proto.enforcing_consecutive_gateway_failure,
                "enforcing_consecutive_gateway_failure",
                0,
            ),
            Sign::ConsecutiveLocalOriginFailure => (
                &proto.enforcing_consecutive_local_origin_failure,
                "enforcing_consecutive_local_origin_failure",
                100,
            ),
            Sign::SuccessRate => (&proto.enforcing_success_rate, "enforcing_success_rate", 100),
            Sign::LocalOriginSuccessRate => (
                &proto.enforcing_local_origin_success_rate,
                "enforcing_local_origin_success_rate",
                100,
            ),
            Sign::FailurePercentage => (
                &proto.enforcing_failure_percentage,
                "enforcing_failure_percentage",
                0,
            ),
            Sign::LocalOriginFailurePercentage => (
                &proto.enforcing_failure_percentage_local_origin,
                "enforcing_failure_percentage_local_origin",
                0,
            ),
        };
        *place = percent(value, field, default)?;
    }
    Ok(all)
}

fn percent(value: &Option<UInt32Value>, field: &str, default: u32) -> Result<u32, Refusal> {
    match value.map_or(default, |v| v.value) {
        percent @ 0..=100 => Ok(percent),
        _ => Err(Refusal::new(field, "is above 100")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::google::protobuf::Duration as DurationProto;

    use super::*;

    #[test]
    fn defaults_are_envoys() {
        let settings = OutlierDetection::from_proto(&OutlierDetectionProto::default()).unwrap();
        assert_eq!(settings.thresholds.consecutive_5xx, 5);
        assert_eq!(settings.interval, Duration::from_secs(10));
        assert_eq!(settings.base_ejection_time, Duration::from_secs(30));
        assert_eq!(settings.max_ejection_time, Duration::from_secs(300));
        assert_eq!(settings.max_ejection_percent, 10);
        let enforcing = Sign::ALL.map(|sign| settings.enforcing(sign));
        assert_eq!(enforcing, [100, 0, 100, 100, 100, 0, 0]);
        let long = OutlierDetection::from_proto(&OutlierDetectionProto {
            base_ejection_time: Some(DurationProto {
                seconds: 400,
                nanos: 0,
            }),
            ..OutlierDetectionProto::default()
        });
        assert_eq!(long.unwrap().max_ejection_time, Duration::from_secs(400));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |proto: OutlierDetectionProto| {
            let refusal = OutlierDetection::from_proto(&proto).unwrap_err();
            refusal.field.to_string()
        };
        let field = refused(OutlierDetectionProto {
            enforcing_success_rate: Some(UInt32Value { value: 101 }),
            ..OutlierDetectionProto::default()
        });
        assert_eq!(field, "enforcing_success_rate");
        let field = refused(OutlierDetectionProto {
            interval: Some(DurationProto::default()),
            ..OutlierDetectionProto::default()
        });
        assert_eq!(field, "interval");
    }
}
