//! Retry policies: when a request may be sent again, and how often.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::RetryPolicy as RetryPolicyProto;
use waypoint_filters::xds::coverage::well_known::{DURATION, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

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

pub(crate) static RETRY_POLICY: Table = Table {
    name: "envoy.config.route.v3.RetryPolicy",
    fields: &[
        honoured(1, "retry_on"),
        honoured(2, "num_retries").of(&UINT32_VALUE),
        honoured(3, "per_try_timeout").of(&DURATION),
        honoured(5, "retry_host_predicate")
            .named(1)
            .of(&HOST_PREDICATE),
        honoured(6, "host_selection_retry_max_attempts"),
        honoured(7, "retriable_status_codes").list(),
        honoured(8, "retry_back_off").of(&BACK_OFF),
    ],
    refused: "4 retry_priority, 9 retriable_headers, 10 retriable_request_headers, \
              11 rate_limited_retry_back_off, 12 retry_options_predicates, 13 per_try_idle_timeout, \
              14 refresh_cluster_on_retry",
    required: &[],
};

static HOST_PREDICATE: Table = Table {
    name: "envoy.config.route.v3.RetryPolicy.RetryHostPredicate",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(3, "typed_config").any(&[&[&PREVIOUS_HOSTS]]),
    ],
    refused: "",
    required: &[required("typed_config", &[3])],
};

static PREVIOUS_HOSTS: Table = Table {
    name: "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    fields: &[],
    refused: "",
    required: &[],
};

static BACK_OFF: Table = Table {
    name: "envoy.config.route.v3.RetryPolicy.RetryBackOff",
    fields: &[
        honoured(1, "base_interval").of(&DURATION),
        honoured(2, "max_interval").of(&DURATION),
    ],
    refused: "",
    required: &[required("base_interval", &[1])],
};

impl RetryPolicy {
    pub(crate) fn from_proto(proto: &RetryPolicyProto) -> Result<RetryPolicy, Refusal> {
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
            // The only predicate that isn't refused.
            previous_hosts: !proto.retry_host_predicate.is_empty(),
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
