//! Time limits as Envoy counts them: from the end of the request, which may come late, or never, and not while filters
//! held it back.
//!
//! A route's limit spans all attempts and the whole answer. An attempt's limit counts from when its connection was
//! there, too, and ends with the head of the answer. What the limits leave is told to the upstream
//! (`x-envoy-expected-rq-timeout-ms`, `grpc-timeout`).
//!
//! Nobody tells a [`Deadline`] that its clock has started: it asks whenever its timer rings, and the timer never rings
//! later than it would have to if the clock had started just after it was last asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use waypoint_config::model::route::forward::Forward;
use waypoint_filters::service::body::{Body, BodyError};
use waypoint_filters::stream::stream_info::StreamInfo;

use crate::upstream::error::UpstreamErrorKind;

const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The limits of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeLimits {
    /// All attempts together, and the answer.
    pub(crate) route: Option<Duration>,
    /// Each attempt, up to the head of its answer.
    pub(crate) attempt: Option<Duration>,
    /// How long nothing may come of an attempt.
    pub(crate) idle: Option<Duration>,
    /// Whether the upstream's gRPC is told its limit.
    tell_grpc: bool,
    /// Whether Envoy's own header says it.
    tell_envoy: bool,
}

impl TimeLimits {
    pub(crate) fn of(forward: &Forward, grpc: bool, headers: &HeaderMap) -> TimeLimits {
        let route = forward.timeout_of(grpc, headers);
        let attempt = forward.retry.as_ref().and_then(|p| p.per_try_timeout);
        let idle = forward.retry.as_ref().and_then(|p| p.per_try_idle_timeout);
        TimeLimits {
            route,
            // One that can't come first doesn't count.
            attempt: attempt.filter(|attempt| route.is_none_or(|route| *attempt < route)),
            idle,
            tell_grpc: grpc && forward.max_grpc_timeout.is_some(),
            tell_envoy: true,
        }
    }

    /// How long it may take until the head of an attempt's answer is there, and what is over then.
    pub(crate) fn before_head(&self) -> Option<(Duration, UpstreamErrorKind)> {
        let attempt = self.attempt.map(|a| (a, UpstreamErrorKind::PerTryTimeout));
        let idle = self.idle.map(|i| (i, UpstreamErrorKind::PerTryIdleTimeout));
        match (attempt, idle) {
            (Some(attempt), Some(idle)) if idle.0 < attempt.0 => Some(idle),
            (attempt, idle) => attempt.or(idle),
        }
    }

    /// Whether the upstream hears of them in Envoy's own header, too.
    pub(crate) fn told(self, tell_envoy: bool) -> TimeLimits {
        TimeLimits { tell_envoy, ..self }
    }

    /// Tells the upstream what is left when `elapsed` has passed since the request's end.
    pub(crate) fn tell(&self, headers: &mut HeaderMap, elapsed: impl FnOnce() -> Duration) {
        let Some(mut expected) = self.attempt.or(self.route) else {
            return;
        };
        if let Some(route) = self.route {
            // Zero would mean no limit.
            let left = route.saturating_sub(elapsed());
            expected = expected.min(left).max(Duration::from_millis(1));
        }
        let millis = expected.as_nanos().div_ceil(1_000_000);
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        if self.tell_envoy {
            headers.insert(EXPECTED_TIMEOUT, millis.into());
        }
        if self.tell_grpc {
            headers.insert(GRPC_TIMEOUT, grpc_timeout(millis));
        }
    }
}

/// At most eight digits and a unit.
pub(crate) fn grpc_timeout(millis: u64) -> HeaderValue {
    const MOST: u64 = 99_999_999;
    let text = match millis {
        0..=MOST => format!("{millis}m"),
        _ if millis / 1000 <= MOST => format!("{}S", millis / 1000),
        _ => format!("{}M", (millis / 60_000).min(MOST)),
    };
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("99999999M"))
}

/// A time limit whose clock may not have started.
pub(crate) struct Deadline {
    limit: Duration,
    /// No clock runs before.
    began: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Deadline {
    /// For a request that came to the router at `began`: what filters held it back before doesn't count.
    pub(crate) fn new(limit: Duration, began: Instant) -> Deadline {
        Deadline {
            limit,
            began,
            sleep: Box::pin(tokio::time::sleep(limit)),
        }
    }

    /// Ready when the time is over; `started` says since when the clock runs, if it does.
    pub(crate) fn poll_over(
        &mut self,
        started: impl Fn() -> Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = Instant::now();
            let due = started().unwrap_or(now).max(self.began) + self.limit;
            if due <= now {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due.into());
        }
    }

    /// Begins anew.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.began = now;
    }

    /// The future's value; `None` if the time is over first. The future is large, and stays where it is.
    pub(crate) async fn before<F: Future>(
        &mut self,
        started: impl Fn() -> Option<Instant>,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            self.poll_over(&started, cx).map(|()| None)
        })
        .await
    }
}

/// The time was over before the answer was; and what details say of that.
#[derive(Debug)]
pub(crate) struct OutOfTime(pub(crate) &'static str);

impl std::fmt::Display for OutOfTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a time limit ended the answer: {}", self.0)
    }
}

impl std::error::Error for OutOfTime {}

/// An answer's body that is cut when its time is over.
struct LimitedBody {
    body: Body,
    deadline: Deadline,
    stream: Arc<StreamInfo>,
}

/// The rest of the answer has to come before the deadline, too.
pub(crate) fn limited(body: Body, deadline: Deadline, stream: &Arc<StreamInfo>) -> Body {
    if http_body::Body::is_end_stream(&body) {
        return body;
    }
    Body::boxed(LimitedBody {
        body,
        deadline,
        stream: stream.clone(),
    })
}

impl http_body::Body for LimitedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let stream = &this.stream;
        if this
            .deadline
            .poll_over(|| stream.request_end(), cx)
            .is_ready()
        {
            // The upstream is let go at once.
            this.body = Body::empty();
            return Poll::Ready(Some(Err(OutOfTime("response_timeout").into())));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(limits: TimeLimits, elapsed: u64) -> (Option<String>, Option<String>) {
        let mut headers = HeaderMap::new();
        limits.tell(&mut headers, || Duration::from_millis(elapsed));
        let value = |name| Some(headers.get(&name)?.to_str().ok()?.to_owned());
        (value(EXPECTED_TIMEOUT), value(GRPC_TIMEOUT))
    }

    #[test]
    fn the_upstream_is_told_what_is_left() {
        let millis = |n| Some(Duration::from_millis(n));
        let limits = TimeLimits {
            route: millis(1000),
            attempt: millis(300),
            idle: None,
            tell_grpc: true,
            tell_envoy: true,
        };
        assert_eq!(told(limits, 0), (Some("300".into()), Some("300m".into())));
        assert_eq!(told(limits, 900), (Some("100".into()), Some("100m".into())));
        assert_eq!(told(limits, 2000), (Some("1".into()), Some("1m".into())));
        assert_eq!(told(TimeLimits::default(), 0), (None, None));
        assert_eq!(grpc_timeout(100_000_000), "100000S");
        assert_eq!(grpc_timeout(u64::MAX), "99999999M");
    }

    #[tokio::test]
    async fn a_clock_that_starts_late_rings_late() {
        let begun = Instant::now();
        let request_end = begun + Duration::from_millis(250);
        let started = || (Instant::now() >= request_end).then_some(request_end);
        let mut deadline = Deadline::new(Duration::from_millis(100), begun);
        let never = std::pin::pin!(std::future::pending::<()>());
        assert!(deadline.before(started, never).await.is_none());
        assert!(begun.elapsed() >= Duration::from_millis(350));
    }
}
