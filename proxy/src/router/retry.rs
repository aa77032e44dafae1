//! Whether to try again: Envoy's retry conditions, as pure functions, and its back-off.

use std::time::Duration;

use http::{HeaderName, Response};
use waypoint_config::model::cluster::upstream_protocol::UpstreamProtocol;
use waypoint_config::model::route::retry_policy::{RetryOn, RetryPolicy};

use crate::upstream::error::UpstreamErrorKind;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// Whether an attempt that failed without an answer may be repeated.
pub(crate) fn on_error(policy: Option<&RetryPolicy>, kind: UpstreamErrorKind) -> bool {
    let Some(RetryPolicy { on, .. }) = policy else {
        return false;
    };
    // `5xx` covers resets and connections that fail; `gateway-error` as well.
    let any_reset = on.five_xx || on.gateway_error || on.reset;
    match kind {
        UpstreamErrorKind::Connect | UpstreamErrorKind::ConnectTimeout => {
            on.connect_failure || on.reset_before_request || any_reset
        }
        UpstreamErrorKind::Refused => on.refused_stream || on.reset_before_request || any_reset,
        UpstreamErrorKind::Terminated | UpstreamErrorKind::Reset | UpstreamErrorKind::Protocol => {
            any_reset
        }
        UpstreamErrorKind::PerTryTimeout => on.five_xx || on.gateway_error,
        UpstreamErrorKind::NoHealthyUpstream
        | UpstreamErrorKind::RequestTimeout
        | UpstreamErrorKind::Overflow => false,
    }
}

/// Whether this answer is to be thrown away for another attempt.
pub(crate) fn on_response<B>(
    policy: Option<&RetryPolicy>,
    response: &Response<B>,
    grpc: bool,
) -> bool {
    let Some(policy) = policy else {
        return false;
    };
    let on = policy.on;
    let status = response.status().as_u16();
    let headers = response.headers();
    if on.envoy_ratelimited && headers.contains_key(RATE_LIMITED) {
        return true;
    }
    if (on.five_xx && status >= 500)
        || (on.gateway_error && matches!(status, 502..=504))
        || (on.retriable_4xx && status == 409)
        || (on.retriable_status_codes && policy.status_codes.contains(&status))
    {
        return true;
    }
    // A trailers-only answer has its status in the head; one with a body has begun already.
    grpc && headers
        .get(GRPC_STATUS)
        .and_then(|status| status.to_str().ok()?.parse::<u32>().ok())
        .is_some_and(|status| grpc_retriable(on, status))
}

fn grpc_retriable(on: RetryOn, status: u32) -> bool {
    match status {
        1 => on.grpc_cancelled,
        4 => on.grpc_deadline_exceeded,
        8 => on.grpc_resource_exhausted,
        13 => on.grpc_internal,
        14 => on.grpc_unavailable,
        _ => false,
    }
}

/// Whether the policy can ask for another attempt after the request was sent: only then is it worth
/// keeping. istiod's default policy does so for gRPC, and over HTTP/2 (a refused stream).
pub(crate) fn may_follow_sending(
    policy: &RetryPolicy,
    protocol: UpstreamProtocol,
    grpc: bool,
) -> bool {
    let on = policy.on;
    on.five_xx
        || on.gateway_error
        || on.reset
        || on.retriable_4xx
        || on.envoy_ratelimited
        || (on.retriable_status_codes && !policy.status_codes.is_empty())
        || (on.refused_stream && protocol == UpstreamProtocol::Http2)
        || (grpc
            && (on.grpc_cancelled
                || on.grpc_deadline_exceeded
                || on.grpc_internal
                || on.grpc_resource_exhausted
                || on.grpc_unavailable))
}

/// Envoy's fully jittered exponential back-off: a random time below `base × 2ⁿ − 1`, at most `max`.
pub(crate) struct Backoff {
    base: Duration,
    max: Duration,
    retry: u32,
}

impl Backoff {
    pub(crate) fn new(policy: Option<&RetryPolicy>) -> Backoff {
        Backoff {
            base: policy.map_or(Duration::from_millis(25), |p| p.base_interval),
            max: policy.map_or(Duration::from_millis(250), |p| p.max_interval),
            retry: 0,
        }
    }

    /// The pause before the next attempt; `random` is in 0..1.
    pub(crate) fn next(&mut self, random: f64) -> Option<Duration> {
        self.retry = (self.retry + 1).min(16);
        let ceiling = self
            .base
            .saturating_mul((1 << self.retry) - 1)
            .min(self.max);
        let pause = ceiling.mul_f64(random.clamp(0.0, 1.0));
        (!pause.is_zero()).then_some(pause)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What istiod sends where nobody says otherwise.
    fn default_policy() -> RetryPolicy {
        RetryPolicy {
            on: RetryOn {
                connect_failure: true,
                refused_stream: true,
                grpc_unavailable: true,
                grpc_cancelled: true,
                retriable_status_codes: true,
                ..RetryOn::default()
            },
            num_retries: 2,
            per_try_timeout: None,
            status_codes: Box::default(),
            previous_hosts: true,
            host_selection_attempts: 5,
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
        }
    }

    fn answer(status: u16, grpc: Option<&'static str>) -> Response<()> {
        let mut response = Response::builder().status(status);
        if let Some(grpc) = grpc {
            response = response.header(GRPC_STATUS, grpc);
        }
        response.body(()).unwrap()
    }

    #[test]
    fn the_default_policy_hands_on_a_503_and_repeats_what_was_not_handled() {
        let policy = default_policy();
        let policy = Some(&policy);
        assert!(!on_response(policy, &answer(503, None), false));
        assert!(on_response(policy, &answer(200, Some("14")), true));
        assert!(!on_response(policy, &answer(200, Some("14")), false));
        assert!(!on_response(policy, &answer(200, Some("0")), true));
        assert!(on_error(policy, UpstreamErrorKind::Connect));
        assert!(on_error(policy, UpstreamErrorKind::Refused));
        assert!(!on_error(policy, UpstreamErrorKind::Terminated));
        assert!(!on_error(None, UpstreamErrorKind::Connect));
    }

    #[test]
    fn a_request_is_kept_only_where_it_may_be_needed() {
        let policy = default_policy();
        assert!(!may_follow_sending(&policy, UpstreamProtocol::Http1, false));
        assert!(may_follow_sending(&policy, UpstreamProtocol::Http1, true));
        assert!(may_follow_sending(&policy, UpstreamProtocol::Http2, false));
        let mut codes = default_policy();
        codes.status_codes = Box::new([503]);
        assert!(may_follow_sending(&codes, UpstreamProtocol::Http1, false));
        assert!(on_response(Some(&codes), &answer(503, None), false));
    }

    #[test]
    fn pauses_grow_to_their_cap() {
        let mut backoff = Backoff::new(None);
        let pauses: Vec<_> = (0..6)
            .filter_map(|_| backoff.next(1.0))
            .map(|p| p.as_millis())
            .collect();
        assert_eq!(pauses, [25, 75, 175, 250, 250, 250]);
        assert_eq!(Backoff::new(None).next(0.0), None);
    }
}
