//! Whether to try again: Envoy's retry conditions, as pure functions, and its back-off.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, Response};
use waypoint_config::model::cluster::upstream_protocol::UpstreamProtocol;
use waypoint_config::model::route::retry_back_off::BackOff;
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
        UpstreamErrorKind::PerTryTimeout | UpstreamErrorKind::PerTryIdleTimeout => any_reset,
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
    // Whoever limits says whether it helps to ask again, whatever else the answer is.
    if headers.contains_key(RATE_LIMITED) {
        return on.envoy_ratelimited;
    }
    if (on.five_xx && status >= 500)
        || (on.gateway_error && matches!(status, 502..=504))
        || (on.retriable_4xx && status == 409)
        || (on.retriable_status_codes && policy.status_codes.contains(&status))
        || (on.retriable_headers && policy.has_header(headers))
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
        || (on.retriable_headers && !policy.headers.is_empty())
        || (on.refused_stream && protocol != UpstreamProtocol::Http1)
        || (grpc
            && (on.grpc_cancelled
                || on.grpc_deadline_exceeded
                || on.grpc_internal
                || on.grpc_resource_exhausted
                || on.grpc_unavailable))
}

/// Envoy's fully jittered exponential back-off: a random time below `base × 2ⁿ − 1`, at most `max`. An answer that asks for
/// patience has the next attempt wait as long as it says, or up to half as long again.
pub(crate) struct Backoff<'a> {
    policy: Option<&'a RetryPolicy>,
    intervals: BackOff,
    retry: u32,
    /// What the last answer asked for.
    asked: Option<Duration>,
}

impl<'a> Backoff<'a> {
    pub(crate) fn new(policy: Option<&'a RetryPolicy>) -> Backoff<'a> {
        Backoff {
            policy,
            intervals: policy.map(|p| p.back_off).unwrap_or_default(),
            retry: 0,
            asked: None,
        }
    }

    /// An answer is thrown away for another attempt.
    pub(crate) fn answered(&mut self, headers: &HeaderMap, now: SystemTime) {
        let resets = self.policy.and_then(|policy| policy.resets.as_ref());
        self.asked = resets.and_then(|resets| resets.pause(headers, now));
    }

    /// The pause before the next attempt; `random` is in 0..1.
    pub(crate) fn next(&mut self, random: f64) -> Option<Duration> {
        let random = random.clamp(0.0, 1.0);
        if let Some(asked) = self.asked.take().filter(|asked| !asked.is_zero()) {
            return Some(asked + asked.mul_f64(random / 2.0));
        }
        self.retry = (self.retry + 1).min(16);
        let BackOff { base, max } = self.intervals;
        let ceiling = base.saturating_mul((1 << self.retry) - 1).min(max);
        let pause = ceiling.mul_f64(random);
        (!pause.is_zero()).then_some(pause)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::UNIX_EPOCH;

    use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
    use envoy_types::pb::envoy::config::route::v3::RetryPolicy as Proto;
    use envoy_types::pb::envoy::config::route::v3::retry_policy::{
        RateLimitedRetryBackOff, ResetHeader,
    };

    use super::*;

    fn of(retry_on: &str, change: impl FnOnce(&mut Proto)) -> RetryPolicy {
        let mut proto = Proto {
            retry_on: retry_on.into(),
            ..Proto::default()
        };
        change(&mut proto);
        RetryPolicy::from_proto(&proto).unwrap()
    }

    /// What istiod sends where nobody says otherwise.
    fn default_policy() -> RetryPolicy {
        let on = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
        of(on, |_| {})
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
        let codes = of("retriable-status-codes", |p| {
            p.retriable_status_codes = vec![503];
        });
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

    #[test]
    fn who_limits_says_whether_to_ask_again() {
        let limited = |policy: &RetryPolicy, status| {
            let mut response = answer(status, None);
            response
                .headers_mut()
                .insert(RATE_LIMITED, "true".parse().unwrap());
            on_response(Some(policy), &response, false)
        };
        assert!(!limited(&of("5xx", |_| {}), 503));
        assert!(limited(&of("envoy-ratelimited", |_| {}), 429));
        assert!(!on_response(
            Some(&of("envoy-ratelimited", |_| {})),
            &answer(429, None),
            false
        ));
    }

    #[test]
    fn headers_of_answers_and_of_requests_count() {
        let header = |name: &str| HeaderMatcher {
            name: name.into(),
            ..HeaderMatcher::default()
        };
        let policy = of("retriable-headers", |p| {
            p.retriable_headers = vec![header("grpc-status")];
            p.retriable_request_headers = vec![header("x-again"), header("x-more")];
        });
        assert!(on_response(Some(&policy), &answer(200, Some("0")), false));
        assert!(!on_response(Some(&policy), &answer(503, None), false));
        assert!(may_follow_sending(&policy, UpstreamProtocol::Http1, false));
        let asked = |name: &str| http::Request::builder().header(name, "1").body(()).unwrap();
        assert!(policy.is_for(&asked("x-more")) && !policy.is_for(&asked("x-other")));
    }

    #[test]
    fn an_answer_may_ask_for_patience_once() {
        let policy = of("5xx", |p| {
            p.rate_limited_retry_back_off = Some(RateLimitedRetryBackOff {
                reset_headers: vec![ResetHeader {
                    name: "retry-after".into(),
                    format: 0,
                }],
                max_interval: None,
            });
        });
        let mut backoff = Backoff::new(Some(&policy));
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "2".parse().unwrap());
        for (random, millis) in [(0.0, 2000), (1.0, 3000)] {
            backoff.answered(&headers, UNIX_EPOCH);
            assert_eq!(backoff.next(random), Some(Duration::from_millis(millis)));
        }
        assert_eq!(backoff.next(1.0), Some(Duration::from_millis(25)));
    }
}
