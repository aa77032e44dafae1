//! The record of a stream: written once, at the later of its body's end and its drop.
//!
//! Here, too, an answer that breaks off gets its flags; its failure leaves after what came of it ([`DelayedFailure`]).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame, SizeHint};
use waypoint_config::model::http::connection_manager::HttpConnectionManager;
use waypoint_filters::service::body::{Body, BodyError, passes};
use waypoint_filters::stream::direction::Direction;
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_filters::stream::stream_info::{Capture, StreamInfo};
use waypoint_hbone::held::holder::Exchange;

use crate::downstream::http::answering::Answering;
use crate::downstream::http::connection::HttpConnection;
use crate::downstream::http::delayed_failure::{DelayedFailure, DelayedFailures};
use crate::downstream::http::stream_clock::StreamOver;
use crate::downstream::http::wire_count::Unrecorded;
use crate::downstream::lifetime::Use;
use crate::overload;
use crate::router::deadline::OutOfTime;
use crate::upstream::error::{BrokenOff, UpstreamErrorKind};

/// Records its stream when it is dropped, whatever became of the stream until then.
pub(crate) struct RecordGuard {
    pub(crate) stream: Arc<StreamInfo>,
    manager: Arc<HttpConnectionManager>,
    complete: bool,
    /// The request's place among those at work.
    pub(crate) exchange: Option<Exchange>,
    /// For the answer, where that says it.
    pub(crate) request_id: Option<HeaderValue>,
    /// Its connection is in use.
    pub(crate) in_use: Option<Use>,
    /// Its connection and its number there, where bytes are counted.
    counted: Option<(Arc<HttpConnection>, u64)>,
}

impl RecordGuard {
    pub(crate) fn new(stream: Arc<StreamInfo>, manager: Arc<HttpConnectionManager>) -> RecordGuard {
        RecordGuard {
            stream,
            manager,
            complete: false,
            exchange: None,
            request_id: None,
            in_use: None,
            counted: None,
        }
    }

    /// The request after so many begins on its connection: its bytes are counted if that counts any.
    pub(crate) fn count_wire<B>(
        &mut self,
        connection: &Arc<HttpConnection>,
        request: &http::Request<B>,
        before: u64,
    ) {
        let Some(count) = &connection.wire else {
            return;
        };
        if request.version() == http::Version::HTTP_2 {
            return;
        }
        count.begin(before + 1);
        // Whether or not a later version of the chain wants to know: what one sends must not count as the next one's.
        let wire = self.stream.count_wire();
        wire.downstream.begin();
        wire.downstream.receive_headers(request.headers());
        self.counted = Some((connection.clone(), before + 1));
    }

    /// Keeps what recorders want to know of the response's trailers.
    fn keep_trailers(&self, trailers: &HeaderMap) {
        let capture = self.manager.capture_of(&self.stream);
        if capture.response_trailers.is_empty() && !capture.head_sizes {
            return;
        }
        let mut state = self.stream.state();
        state.response.trailers = Capture::headers(&capture.response_trailers, trailers);
        state.response.trailer_bytes = Capture::size(trailers);
    }

    /// The stream was answered, with nothing more to come.
    pub(crate) fn finish(&mut self, status: http::StatusCode) {
        self.stream.state().response.code = Some(status.as_u16());
        self.complete = true;
    }
}

impl RecordGuard {
    /// The answer had begun, and doesn't go on.
    fn broken_off(&mut self, error: &BodyError) {
        let (flag, details) = if let Some(over) = error.downcast_ref::<StreamOver>() {
            (over.flags(), over.details().into())
        } else if let Some(OutOfTime(details)) = error.downcast_ref() {
            let flag = ResponseFlags::UPSTREAM_REQUEST_TIMEOUT;
            (flag, (*details).into())
        } else {
            let broken = error.downcast_ref::<BrokenOff>();
            let broken = broken.unwrap_or(&BrokenOff(UpstreamErrorKind::Terminated));
            (broken.0.flag(), broken.details())
        };
        let mut state = self.stream.state();
        state.flags.insert(flag);
        state.response_code_details = Some(details);
        drop(state);
        self.complete = true;
    }
}

impl Drop for RecordGuard {
    fn drop(&mut self) {
        if !self.complete {
            let mut state = self.stream.state();
            if std::thread::panicking() {
                state.flags.insert(ResponseFlags::LOCAL_RESET);
                state.response_code_details = Some("panic_in_filter_chain".into());
            } else if self.stream.connection.is_evicted() {
                state.flags.insert(ResponseFlags::OVERLOAD_MANAGER);
                state.response_code_details = Some(overload::DETAILS.into());
            } else if state.flags.is_empty() || state.flags == ResponseFlags::DELAY_INJECTED {
                // The client went away before it had the whole answer.
                state
                    .flags
                    .insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
                state
                    .response_code_details
                    .get_or_insert("downstream_remote_disconnect".into());
            }
        }
        let end = Instant::now();
        if let Some((connection, number)) = self.counted.take()
            && let Some(count) = &connection.wire
        {
            let unrecorded = Unrecorded {
                stream: self.stream.clone(),
                manager: self.manager.clone(),
                end,
            };
            return count.end(number, unrecorded);
        }
        for recorder in &self.manager.recorders {
            recorder.record(&self.stream, end);
        }
    }
}

/// A response's body on its way to the client; counts it, and holds the stream's record.
pub(crate) struct RecordedBody {
    body: Body,
    /// `None`: the stream is recorded elsewhere, or was already.
    guard: Option<RecordGuard>,
    /// Of the client's connection.
    delayed_failures: Option<Arc<DelayedFailures>>,
    failed: Option<Box<DelayedFailure>>,
    /// Whether its trailers reach the client.
    trailers: bool,
    /// Told of its end, where that matters.
    answering: Option<Answering>,
}

impl RecordedBody {
    pub(crate) fn new(
        body: Body,
        mut guard: RecordGuard,
        delayed_failures: Arc<DelayedFailures>,
        trailers: bool,
    ) -> RecordedBody {
        guard.complete = body.is_end_stream();
        RecordedBody {
            body,
            guard: Some(guard),
            delayed_failures: Some(delayed_failures),
            failed: None,
            trailers,
            answering: None,
        }
    }

    /// A body without content, of a stream that is recorded elsewhere.
    pub(crate) fn unrecorded() -> RecordedBody {
        RecordedBody {
            body: Body::empty(),
            guard: None,
            delayed_failures: None,
            failed: None,
            trailers: false,
            answering: None,
        }
    }

    /// Keeps this to its end.
    pub(crate) fn hold(&mut self, answering: Option<Answering>) {
        self.answering = answering;
    }

    /// What came is passed on before `error` is; nothing more comes from the upstream.
    fn break_off(&mut self, error: BodyError, cx: &mut Context<'_>) -> Poll<Option<BodyError>> {
        self.body = Body::empty();
        if let Some(mut guard) = self.guard.take() {
            guard.broken_off(&error);
        }
        if let Some(of) = &self.delayed_failures {
            self.failed = Some(Box::new(DelayedFailure::new(error, of)));
        }
        self.poll_failed(cx)
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<Option<BodyError>> {
        match (&mut self.failed, &self.delayed_failures) {
            (Some(failed), Some(delayed_failures)) => failed.poll(delayed_failures, cx),
            _ => Poll::Ready(None),
        }
    }
}

impl http_body::Body for RecordedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.failed.is_some() {
            return this.poll_failed(cx).map(|error| error.map(Err));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let Some(guard) = &mut this.guard else {
            return polled;
        };
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => guard.complete = true,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    guard.stream.count(Direction::Response, data.len());
                    if let Some(mut times) = guard.stream.upstream_times() {
                        times.passed_body();
                    }
                }
                guard.complete = this.body.is_end_stream() || frame.is_trailers();
                if let Some(trailers) = frame.trailers_ref() {
                    guard.keep_trailers(trailers);
                }
            }
            Poll::Ready(Some(Err(_))) => {}
        }
        match polled {
            Poll::Ready(Some(Err(error))) => this.break_off(error, cx).map(|error| error.map(Err)),
            polled => polled.map(|frame| frame.filter(|frame| passes(frame, this.trailers))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
