//! An answer's body that is cut when nothing of it comes for too long (`per_try_idle_timeout`).
//!
//! As with every time limit of a route, no clock runs before the request has come whole.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use waypoint_filters::service::body::{Body, BodyError};
use waypoint_filters::stream::stream_info::StreamInfo;

use crate::router::deadline::{Deadline, OutOfTime};
use crate::upstream::error::IDLE_DETAILS;

struct IdleBody {
    body: Body,
    deadline: Deadline,
    stream: Arc<StreamInfo>,
}

/// The body, of which at least something has to come within each `limit`.
pub(crate) fn never_idle(body: Body, limit: Duration, stream: &Arc<StreamInfo>) -> Body {
    if http_body::Body::is_end_stream(&body) {
        return body;
    }
    Body::boxed(IdleBody {
        body,
        deadline: Deadline::new(limit, Instant::now()),
        stream: stream.clone(),
    })
}

impl http_body::Body for IdleBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_ready() {
            this.deadline.restart(Instant::now());
            return polled;
        }
        let stream = &this.stream;
        let over = this.deadline.poll_over(|| stream.request_end(), cx);
        if over.is_pending() {
            return Poll::Pending;
        }
        // The upstream is let go at once.
        this.body = Body::empty();
        Poll::Ready(Some(Err(OutOfTime(IDLE_DETAILS).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
