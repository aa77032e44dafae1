//! A request's body that its client may never send, because the answer came before anybody asked for it.
//!
//! An HTTP/2 connection waits for the body of every stream in a task of its own, and its client's connection
//! waits with it. When the answer has ended, so does the body: with an error, as it isn't whole.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use waypoint_filters::service::body::{Body, BodyError};

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    waker: AtomicWaker,
}

/// Ends the body when it is dropped, once it is told that nobody asked for the body.
#[derive(Default)]
pub(crate) struct Hold {
    shared: Arc<Shared>,
    unasked: bool,
}

struct HeldBody {
    body: Body,
    shared: Arc<Shared>,
}

impl Hold {
    /// Puts the body under a hold.
    pub(crate) fn over(body: &mut Body) -> Hold {
        let hold = Hold::default();
        *body = Body::boxed(HeldBody {
            body: std::mem::take(body),
            shared: hold.shared.clone(),
        });
        hold
    }

    /// The answer came first.
    pub(crate) fn ending_if(mut self, unasked: bool) -> Hold {
        self.unasked = unasked;
        self
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.unasked {
            self.shared.over.store(true, Ordering::Release);
            self.shared.waker.wake();
        }
    }
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_ready() {
            return polled;
        }
        this.shared.waker.register(cx.waker());
        if this.shared.over.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err("answered before the body was asked for".into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
