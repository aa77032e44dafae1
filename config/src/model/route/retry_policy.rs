//! Retry policies: when a request may be sent again, and how often.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::HeaderMatcher as HeaderMatcherProto;
use envoy_types::pb::envoy::config::route::v3::RetryPolicy as RetryPolicyProto;
use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_priority::ConfigType;
use http::{HeaderMap, Request};
use waypoint_filters::matcher::header::{HEADER_MATCHER, HeaderMatcher};
use waypoint_filters::xds::coverage::well_known::{DURATION, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, decode_any, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::balance::previous_priorities::{PREVIOUS_PRIORITIES, update_frequency};
use crate::model::duration;
use crate::model::route::retry_back_off::{BACK_OFF, BackOff, RATE_LIMITED_BACK_OFF, ResetHeaders};

/// A compiled `RetryPolicy`.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    pub on: RetryOn,
    pub num_retries: u32,
    pub per_try_timeout: Option<Duration>,
    /// How long nothing may come of an attempt, its answer's body included.
    pub per_try_idle_timeout: Option<Duration>,
    /// Status codes that `retriable-status-codes` means; istiod's default names none.
    pub status_codes: Box<[u16]>,
    /// What `retriable-headers` means: an answer with any of these.
    pub headers: Box<[HeaderMatcher]>,
    /// Only requests with any of these are repeated; none: all.
    request_headers: Box<[HeaderMatcher]>,
    /// Avoid hosts that were tried already, choosing again up to `host_selection_attempts` times.
    pub previous_hosts: bool,
    pub host_selection_attempts: u32,
    /// Leave out priorities that were tried already, after each so many attempts.
    pub previous_priorities: Option<usize>,
    pub back_off: BackOff,
    /// Where answers say when they may be asked for again.
    pub resets: Option<ResetHeaders>,
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
    pub retriable_headers: bool,
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
        honoured(4, "retry_priority").of(&RETRY_PRIORITY),
        honoured(5, "retry_host_predicate")
            .named(1)
            .of(&HOST_PREDICATE),
        honoured(6, "host_selection_retry_max_attempts"),
        honoured(7, "retriable_status_codes").list(),
        honoured(8, "retry_back_off").of(&BACK_OFF),
        honoured(9, "retriable_headers").list().of(&HEADER_MATCHER),
        honoured(10, "retriable_request_headers")
            .list()
            .of(&HEADER_MATCHER),
        honoured(11, "rate_limited_retry_back_off").of(&RATE_LIMITED_BACK_OFF),
        honoured(13, "per_try_idle_timeout").of(&DURATION),
    ],
    refused: "12 retry_options_predicates, 14 refresh_cluster_on_retry",
    required: &[],
};

static RETRY_PRIORITY: Table = Table {
    name: "envoy.config.route.v3.RetryPolicy.RetryPriority",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(3, "typed_config").any(&[&[&PREVIOUS_PRIORITIES]]),
    ],
    refused: "",
    required: &[required("typed_config", &[3])],
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

impl RetryPolicy {
    /// # Errors
    /// What in it isn't honoured.
    pub fn from_proto(proto: &RetryPolicyProto) -> Result<RetryPolicy, Refusal> {
        let status_codes = proto
            .retriable_status_codes
            .iter()
            .map(|code| u16::try_from(*code))
            .collect::<Result<_, _>>()
            .map_err(|_| Refusal::new("retriable_status_codes", "is no status code"))?;
        Ok(RetryPolicy {
            on: RetryOn::parse(&proto.retry_on)?,
            num_retries: proto.num_retries.as_ref().map_or(1, |n| n.value),
            per_try_timeout: duration::limit(&proto.per_try_timeout, "per_try_timeout")?,
            per_try_idle_timeout: duration::limit(
                &proto.per_try_idle_timeout,
                "per_try_idle_timeout",
            )?,
            status_codes,
            headers: matchers(&proto.retriable_headers, "retriable_headers")?,
            request_headers: matchers(
                &proto.retriable_request_headers,
                "retriable_request_headers",
            )?,
            // The only predicate that isn't refused.
            previous_hosts: !proto.retry_host_predicate.is_empty(),
            host_selection_attempts: u32::try_from(proto.host_selection_retry_max_attempts)
                .map_err(|_| Refusal::new("host_selection_retry_max_attempts", "is negative"))?,
            previous_priorities: previous_priorities(proto)?,
            back_off: BackOff::from_proto(proto.retry_back_off.as_ref())
                .map_err(|e| e.within("retry_back_off"))?,
            resets: proto
                .rate_limited_retry_back_off
                .as_ref()
                .map(ResetHeaders::from_proto)
                .transpose()
                .map_err(|e| e.within("rate_limited_retry_back_off"))?,
        })
    }

    /// As [`from_proto`](RetryPolicy::from_proto), for all that it is the policy of.
    pub(crate) fn shared(
        proto: Option<&RetryPolicyProto>,
    ) -> Result<Option<Arc<RetryPolicy>>, Refusal> {
        let policy = proto.map(|proto| RetryPolicy::from_proto(proto).map(Arc::new));
        policy.transpose().map_err(|e| e.within("retry_policy"))
    }

    /// Whether anything may be repeated.
    pub fn has_conditions(&self) -> bool {
        self.on != RetryOn::default()
    }

    /// Whether this request may be repeated.
    pub fn is_for<B>(&self, request: &Request<B>) -> bool {
        let mut any = self.request_headers.iter();
        self.request_headers.is_empty() || any.any(|matcher| matcher.matches(request))
    }

    /// Whether an answer has one of the headers that `retriable-headers` means.
    pub fn has_header(&self, answer: &HeaderMap) -> bool {
        self.headers.iter().any(|matcher| matcher.matches(answer))
    }
}

fn matchers(protos: &[HeaderMatcherProto], field: &str) -> Result<Box<[HeaderMatcher]>, Refusal> {
    let matchers = protos.iter().enumerate().map(|(i, proto)| {
        HeaderMatcher::from_proto(proto).map_err(|e| e.within(format!("{field}[{i}]")))
    });
    matchers.collect()
}

/// The only way to prefer priorities that isn't refused.
fn previous_priorities(proto: &RetryPolicyProto) -> Result<Option<usize>, Refusal> {
    let Some(priority) = &proto.retry_priority else {
        return Ok(None);
    };
    let config = match &priority.config_type {
        Some(ConfigType::TypedConfig(any)) => decode_any(any),
        None => Err(Refusal::missing("typed_config")),
    };
    let frequency = config.and_then(|config| update_frequency(&config));
    frequency.map(Some).map_err(|e| e.within("retry_priority"))
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
                "retriable-headers" => &mut on.retriable_headers,
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
