//! Retry policies: when a request may be sent again, and how often.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::RetryPolicy as RetryPolicyProto;
use waypoint_filters::rejected::Refusal;

use crate::honoured::nothing_left;
use crate::model::duration;

/// A compiled `RetryPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    pub on: RetryOn,
    pub num_retries: u32,
    pub per_try_timeout: Option<Duration>,
    /// Status codes that `retriable-status-codes` means; istiod's default names none.
    pub status_codes: Box<[u16]>,
    /// Avoid hosts that were tried already, choosing again up to `host_selection_attempts` times.
    pub previous_hosts: bool,
    pub host_selection_attempts: u32,
    /// First interval of the exponential back-off (Envoy: 25 ms), and its cap (ten times that).
    pub base_interval: Duration,
    pub max_interval: Duration,
}

/// The conditions of `retry_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    pub five_xx: bool,
    pub gateway_error: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub connect_failure: bool,
    pub refused_stream: bool,
    pub retriable_4xx: bool,
    pub retriable_status_codes: bool,
    pub envoy_ratelimited: bool,
    pub http3_post_connect_failure: bool,
    pub grpc_cancelled: bool,
    pub grpc_deadline_exceeded: bool,
    pub grpc_internal: bool,
    pub grpc_resource_exhausted: bool,
    pub grpc_unavailable: bool,
}

const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";

impl RetryPolicy {
    pub(crate) fn from_proto(proto: &RetryPolicyProto) -> Result<RetryPolicy, Refusal> {
        nothing_left(&RetryPolicyProto {
            retry_on: String::new(),
            num_retries: None,
            per_try_timeout: None,
            retry_host_predicate: Vec::new(),
            host_selection_retry_max_attempts: 0,
            retriable_status_codes: Vec::new(),
            retry_back_off: None,
            ..proto.clone()
        })?;
        let mut previous_hosts = false;
        for predicate in &proto.retry_host_predicate {
            if predicate.name != PREVIOUS_HOSTS {
                return Err(Refusal::unsupported(format!(
                    "retry_host_predicate {}",
                    predicate.name
                )));
            }
            previous_hosts = true;
        }
        let status_codes = proto
            .retriable_status_codes
            .iter()
            .map(|code| u16::try_from(*code))
            .collect::<Result<_, _>>()
            .map_err(|_| Refusal::new("retriable_status_codes", "is no status code"))?;
        let (base, max) = match &proto.retry_back_off {
            None => (None, None),
            Some(back_off) => (
                duration::limit(&back_off.base_interval, "retry_back_off.base_interval")?,
                duration::limit(&back_off.max_interval, "retry_back_off.max_interval")?,
            ),
        };
        let base_interval = base.unwrap_or(Duration::from_millis(25));
        Ok(RetryPolicy {
            on: RetryOn::parse(&proto.retry_on)?,
            num_retries: proto.num_retries.as_ref().map_or(1, |n| n.value),
            per_try_timeout: duration::limit(&proto.per_try_timeout, "per_try_timeout")?,
            status_codes,
            previous_hosts,
            host_selection_attempts: u32::try_from(proto.host_selection_retry_max_attempts)
                .map_err(|_| Refusal::new("host_selection_retry_max_attempts", "is negative"))?,
            base_interval,
            max_interval: max.unwrap_or(base_interval * 10),
        })
    }
}

impl RetryOn {
    fn parse(text: &str) -> Result<RetryOn, Refusal> {
        let mut on = RetryOn::default();
        for token in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let flag = match token {
                "5xx" => &mut on.five_xx,
                "gateway-error" => &mut on.gateway_error,
                "reset" => &mut on.reset,
                "reset-before-request" => &mut on.reset_before_request,
                "connect-failure" => &mut on.connect_failure,
                "refused-stream" => &mut on.refused_stream,
                "retriable-4xx" => &mut on.retriable_4xx,
                "retriable-status-codes" => &mut on.retriable_status_codes,
                "envoy-ratelimited" => &mut on.envoy_ratelimited,
                "http3-post-connect-failure" => &mut on.http3_post_connect_failure,
                "cancelled" => &mut on.grpc_cancelled,
                "deadline-exceeded" => &mut on.grpc_deadline_exceeded,
                "internal" => &mut on.grpc_internal,
                "resource-exhausted" => &mut on.grpc_resource_exhausted,
                "unavailable" => &mut on.grpc_unavailable,
                _ => return Err(Refusal::unsupported(format!("retry_on {token}"))),
            };
            *flag = true;
        }
        Ok(on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istiods_default_policy() {
        let policy = RetryPolicy::from_proto(&RetryPolicyProto {
            retry_on: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
                .into(),
            host_selection_retry_max_attempts: 5,
            ..RetryPolicyProto::default()
        });
        assert!(policy.is_ok_and(|p| p.on.connect_failure && p.on.grpc_unavailable && !p.on.reset));
        assert!(RetryOn::parse("bogus").is_err());
    }
}
