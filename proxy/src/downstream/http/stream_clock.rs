//! How long a request may take, whatever becomes of it: `stream_idle_timeout`, `request_timeout` and `max_stream_duration`.
//!
//! Other than a route's time limit (`router/deadline.rs`), these begin with the request's head and hold for filters, too. A
//! request that is over before its answer has begun is answered 408, or 504 if it was whole; an answer that has begun is
//! reset. Where no limit is configured, as by istiod, there is no clock.
//!
//! One timer rings for all of them. What moves only says when; it is looked at when the timer rings.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use waypoint_config::model::route::forward::asked_by_grpc;
use waypoint_config::model::route::{Route, RouteAction};
use waypoint_config::model::stream_limits::StreamLimits;
use waypoint_filters::service::body::{Body, BodyError};
use waypoint_filters::service::local_reply::LocalReply;
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_filters::stream::stream_info::StreamInfo;

use crate::router::deadline::grpc_timeout;
use crate::upstream::connection::informational::relay::Relay;

/// gRPC's.
const DEADLINE_EXCEEDED: u32 = 4;

/// Which limit a stream has reached; the error of a body that is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamOver {
    /// Nothing moved.
    Idle,
    /// The request didn't end.
    Request,
    Duration,
}

impl StreamOver {
    /// In Envoy's words.
    pub(crate) fn details(self) -> &'static str {
        match self {
            StreamOver::Idle => "stream_idle_timeout",
            StreamOver::Request => "request_overall_timeout",
            StreamOver::Duration => "max_duration_timeout",
        }
    }

    pub(crate) fn flags(self) -> ResponseFlags {
        match self {
            StreamOver::Idle => ResponseFlags::STREAM_IDLE_TIMEOUT,
            // Envoy has a flag for it, and doesn't set it.
            StreamOver::Request | StreamOver::Duration => ResponseFlags::default(),
        }
    }

    /// The answer where none has begun; `whole` says whether the request was.
    pub(crate) fn reply(self, whole: bool) -> LocalReply {
        let text = match self {
            StreamOver::Idle => "stream timeout",
            StreamOver::Request => "request timeout",
            StreamOver::Duration => "downstream duration timeout",
        };
        let reply = |status| {
            let reply = LocalReply::new(status, text, self.details()).with_flags(self.flags());
            match self {
                StreamOver::Duration => reply.with_grpc_status(DEADLINE_EXCEEDED),
                _ => reply,
            }
        };
        if whole {
            return reply(StatusCode::GATEWAY_TIMEOUT);
        }
        // What is still to come of the request has no place on the connection.
        reply(StatusCode::REQUEST_TIMEOUT).closing()
    }
}

impl std::fmt::Display for StreamOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.details())
    }
}

impl std::error::Error for StreamOver {}

/// When something moved last, in microseconds after the clock began.
struct Moves {
    began: Instant,
    last: AtomicU64,
}

impl Moves {
    fn note(&self) {
        let elapsed = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.began + Duration::from_micros(self.last.load(Ordering::Relaxed))
    }
}

/// The limits of one stream.
pub(crate) struct StreamClock {
    limits: StreamLimits,
    stream: Arc<StreamInfo>,
    moves: Arc<Moves>,
    timer: Pin<Box<Sleep>>,
    /// What the upstream says before its answer moves the stream, too: how often it has spoken.
    spoken: Option<(Relay, u64)>,
}

impl StreamClock {
    /// Begins with the request's head; `None`: nothing limits it. The route may change what the request says of its own
    /// limit (`grpc-timeout`).
    pub(crate) fn begin(
        manager: &StreamLimits,
        stream: &Arc<StreamInfo>,
        route: Option<&Route>,
        headers: &mut HeaderMap,
    ) -> Option<Box<StreamClock>> {
        let of_route = route.and_then(|route| match &route.action {
            RouteAction::Forward(forward) => Some(&forward.streams),
            _ => None,
        });
        let (limits, told) = manager.on(of_route, || asked_by_grpc(headers));
        if let Some(told) = told {
            let millis = u64::try_from(told.as_millis()).unwrap_or(u64::MAX);
            headers.insert("grpc-timeout", grpc_timeout(millis));
        }
        if limits.is_none() {
            return None;
        }
        let began = Instant::from_std(stream.start);
        let mut clock = StreamClock {
            limits,
            stream: stream.clone(),
            moves: Arc::new(Moves {
                began,
                last: AtomicU64::new(0),
            }),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            spoken: None,
        };
        let (due, _) = clock.due()?;
        clock.timer.as_mut().reset(due);
        Some(Box::new(clock))
    }

    /// What is reached first, if nothing moves.
    fn due(&self) -> Option<(Instant, StreamOver)> {
        let StreamLimits {
            idle,
            request,
            duration,
        } = self.limits;
        let request = request.filter(|_| self.stream.request_end().is_none());
        let due = [
            (self.moves.last(), idle, StreamOver::Idle),
            (self.moves.began, request, StreamOver::Request),
            (self.moves.began, duration, StreamOver::Duration),
        ];
        due.into_iter()
            .filter_map(|(since, limit, over)| Some((since.checked_add(limit?)?, over)))
            .min_by_key(|(due, _)| *due)
    }

    /// Ready when the stream is over.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<StreamOver> {
        while self.timer.as_mut().poll(cx).is_ready() {
            match self.due() {
                // Only the request had a limit, and it has ended.
                None => {
                    let far = Duration::from_secs(86_400);
                    self.timer.as_mut().reset(Instant::now() + far);
                }
                Some((due, over)) if due <= Instant::now() => return Poll::Ready(over),
                Some((due, _)) => self.timer.as_mut().reset(due),
            }
        }
        Poll::Pending
    }

    /// Hears of what the upstream says before its answer.
    pub(crate) fn listen(&mut self, relay: Option<&Relay>) {
        self.spoken = relay.map(|relay| (relay.clone(), relay.spoken()));
    }

    fn note_spoken(&mut self) {
        if let Some((relay, seen)) = &mut self.spoken {
            let spoken = relay.spoken();
            if std::mem::replace(seen, spoken) != spoken {
                self.moves.note();
            }
        }
    }

    /// The body as it is, and whoever passes it on says that something moves.
    pub(crate) fn watch(&self, body: Body) -> Body {
        if self.limits.idle.is_none() || http_body::Body::is_end_stream(&body) {
            return body;
        }
        Body::boxed(WatchedBody {
            body,
            moves: self.moves.clone(),
        })
    }

    /// The future's value, if it comes in time. Or else which limit was reached, and whether the request was whole by then:
    /// what is still to come of it is given up with the future.
    pub(crate) async fn before<F: Future>(
        &mut self,
        future: F,
    ) -> Result<F::Output, (StreamOver, bool)> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            self.note_spoken();
            let over = self.poll_over(cx);
            over.map(|over| Err((over, self.stream.request_end().is_some())))
        })
        .await
    }

    /// The answer's body, which is cut when the stream is over.
    pub(crate) fn limit(self: Box<Self>, body: Body) -> Body {
        self.moves.note();
        if http_body::Body::is_end_stream(&body) {
            return body;
        }
        Body::boxed(LimitedBody { body, clock: self })
    }

    /// How long nothing may move.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.limits.idle
    }

    /// As of now only the stream's whole time counts; somebody else sees what moves.
    pub(crate) fn without_idle(mut self: Box<Self>) -> Box<Self> {
        self.limits.idle = None;
        self
    }

    /// Returns when the stream is over.
    pub(crate) async fn over(&mut self) -> StreamOver {
        std::future::poll_fn(|cx| self.poll_over(cx)).await
    }
}

/// A request's body.
struct WatchedBody {
    body: Body,
    moves: Arc<Moves>,
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_ready() {
            this.moves.note();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body.
struct LimitedBody {
    body: Body,
    clock: Box<StreamClock>,
}

impl http_body::Body for LimitedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_ready() {
            this.clock.moves.note();
            return polled;
        }
        match this.clock.poll_over(cx) {
            Poll::Ready(over) => {
                // The upstream is let go at once.
                this.body = Body::empty();
                Poll::Ready(Some(Err(over.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
