//! A request's body that notes when its end was handed to the connection, for recorders that want to know.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use waypoint_filters::service::body::{Body, BodyError};
use waypoint_filters::stream::stream_info::StreamInfo;

struct TimedBody {
    body: Body,
    stream: Arc<StreamInfo>,
}

/// Has `stream` told when all of `body` has been taken, if it wants to know.
pub(crate) fn time_sending(body: &mut Body, stream: &Arc<StreamInfo>) {
    if stream.wants_upstream_times() && !body.is_empty() {
        *body = Body::boxed(TimedBody {
            body: std::mem::take(body),
            stream: stream.clone(),
        });
    }
}

impl http_body::Body for TimedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let ended = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || this.body.is_end_stream(),
            _ => false,
        };
        if ended && let Some(mut times) = this.stream.upstream_times() {
            times.sent();
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
