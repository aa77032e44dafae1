//! When an inner HTTP connection ends: when it is told to, and when it has lived long enough.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use crate::downstream::http::connection::HttpConnection;
use crate::downstream::lifetime::{Lifetime, Reason};
use crate::lifecycle::drain::LAST_CALL;

/// Returns after `told`, or somewhat later if there was no request yet: the connection may have been opened for one just now.
pub(super) async fn last_call(connection: &HttpConnection, told: impl Future<Output = ()>) {
    told.await;
    if connection.requests.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(LAST_CALL).await;
    }
}

pin_project! {
    /// When a connection is to end in good order: when it is told, and when it has lived long enough. And when it
    /// is over for what runs on it nevertheless. One after the other: each turn asks for few things.
    pub(super) struct Ending<D, O> {
        #[pin]
        told: D,
        #[pin]
        over: O,
        aging: Aging,
        connection: Arc<HttpConnection>,
        said: bool,
    }
}

/// What becomes of a connection that has lived long enough.
pub(super) struct Aging {
    lifetime: Lifetime,
    /// HTTP/2: GOAWAY tells the client, and what it has sent by then is served. h2 sends it twice: without a last stream
    /// first, and with one when the client has seen that.
    side_by_side: bool,
    /// HTTP/1: answers tell the client, and for so long one more request is taken.
    drain: Option<Pin<Box<Sleep>>>,
}

impl Aging {
    pub(super) fn side_by_side(lifetime: Lifetime) -> Aging {
        Aging {
            lifetime,
            side_by_side: true,
            drain: None,
        }
    }

    pub(super) fn one_by_one(lifetime: Lifetime) -> Aging {
        Aging {
            lifetime,
            side_by_side: false,
            drain: None,
        }
    }

    /// Ready when the connection is to end as soon as nothing runs on it.
    fn poll_over(&mut self, connection: &HttpConnection, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(drain) = &mut self.drain {
            return drain.as_mut().poll(cx);
        }
        let reason = ready!(self.lifetime.poll_over(cx));
        if self.side_by_side || reason == Reason::Idle {
            return Poll::Ready(());
        }
        connection.draining.store(true, Ordering::Relaxed);
        let limits = &connection.first.connections;
        if limits.only_with_an_answer {
            self.lifetime.outlives_its_age();
            return self.lifetime.poll_over(cx).map(drop);
        }
        let drain = limits.drain(fastrand::f64());
        let drain = self.drain.insert(Box::pin(tokio::time::sleep(drain)));
        drain.as_mut().poll(cx)
    }
}

/// What a connection is to do now.
pub(super) enum Step {
    Stay,
    /// Said once.
    Goodbye,
    Over,
}

impl<D: Future<Output = ()>, O: Future<Output = ()>> Ending<D, O> {
    pub(super) fn new(
        told: D,
        over: O,
        aging: Aging,
        connection: Arc<HttpConnection>,
    ) -> Ending<D, O> {
        Ending {
            told,
            over,
            aging,
            connection,
            said: false,
        }
    }

    fn poll_step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Step {
        let this = self.project();
        if *this.said {
            return match this.over.poll(cx) {
                Poll::Ready(()) => Step::Over,
                Poll::Pending => Step::Stay,
            };
        }
        if this.told.poll(cx).is_pending() && this.aging.poll_over(this.connection, cx).is_pending()
        {
            return Step::Stay;
        }
        *this.said = true;
        // Nobody has asked for this yet: without, nothing would wake the task for it.
        match this.over.poll(cx) {
            Poll::Ready(()) => Step::Over,
            Poll::Pending => Step::Goodbye,
        }
    }
}

/// What a connection is to do now, also where its tunnel is to give up what it holds.
pub(super) fn poll_end<D: Future<Output = ()>, O: Future<Output = ()>>(
    evicted: Pin<&mut impl Future<Output = ()>>,
    mut ending: Pin<&mut Ending<D, O>>,
    cx: &mut Context<'_>,
) -> Step {
    let step = match evicted.poll(cx) {
        Poll::Ready(()) => Step::Over,
        Poll::Pending => ending.as_mut().poll_step(cx),
    };
    if matches!(step, Step::Over) {
        // What is cut off must not look finished.
        ending.connection.failed.store(true, Ordering::Relaxed);
    }
    step
}
