//! A retry budget: retries under way as a part of the requests under way, or of those that began within an interval, in place of a
//! fixed number.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget as RetryBudgetProto;
use waypoint_filters::xds::coverage::well_known::{DURATION, PERCENT, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::duration;

/// A compiled `RetryBudget`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    percent: f64,
    /// So many may be under way, however few requests are.
    least: u32,
    /// Requests that began within it count, whether they have ended or not; `None`: those under way do.
    pub interval: Option<Duration>,
}

pub(crate) static RETRY_BUDGET: Table = Table {
    name: "envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget",
    fields: &[
        honoured(1, "budget_percent").of(&PERCENT),
        honoured(2, "min_retry_concurrency").of(&UINT32_VALUE),
        honoured(3, "budget_interval").of(&DURATION),
    ],
    refused: "",
    required: &[],
};

impl RetryBudget {
    pub(crate) fn from_proto(proto: &RetryBudgetProto) -> Result<RetryBudget, Refusal> {
        let interval = duration::limit(&proto.budget_interval, "budget_interval")?;
        let percent = proto.budget_percent.map_or(20.0, |p| p.value);
        if !(0.0..=100.0).contains(&percent) {
            return Err(Refusal::new("budget_percent", "is not in 0..=100"));
        }
        Ok(RetryBudget {
            percent,
            least: proto.min_retry_concurrency.map_or(3, |n| n.value),
            interval,
        })
    }

    /// How many retries may be under way beside so many requests, those that wait among them.
    pub fn most(&self, requests: u32) -> u32 {
        let part = self.percent / 100.0 * f64::from(requests);
        (part as u32).max(self.least)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::r#type::v3::Percent;
    use envoy_types::pb::google::protobuf::{Duration, UInt32Value};

    use super::{RetryBudget, RetryBudgetProto};

    #[test]
    fn a_part_of_the_requests_and_never_less_than_a_few() {
        let budget = RetryBudget::from_proto(&RetryBudgetProto::default()).unwrap();
        let most = [0, 15, 19, 20, 100].map(|requests| budget.most(requests));
        assert_eq!(most, [3, 3, 3, 4, 20]);
        let all = RetryBudget::from_proto(&RetryBudgetProto {
            budget_percent: Some(Percent { value: 100.0 }),
            min_retry_concurrency: Some(UInt32Value { value: 0 }),
            ..RetryBudgetProto::default()
        });
        assert_eq!(all.unwrap().most(7), 7);
    }

    #[test]
    fn what_is_not_honoured_is_refused() {
        let interval = RetryBudget::from_proto(&RetryBudgetProto {
            budget_interval: Some(Duration {
                seconds: -1,
                nanos: 0,
            }),
            ..RetryBudgetProto::default()
        });
        assert_eq!(interval.unwrap_err().field, "budget_interval");
        let percent = RetryBudget::from_proto(&RetryBudgetProto {
            budget_percent: Some(Percent { value: 101.0 }),
            ..RetryBudgetProto::default()
        });
        assert!(percent.is_err());
    }
}
