//! How far an exchange on an HTTP/1.1 connection is: whether the request's body, or bytes that the socket didn't take,
//! are still on their way up, and whether anything came down.
//!
//! hyper says when an exchange is over, but not while the answer is being read whether the request is still
//! being sent, and it calls a connection idle though the end of the request waits in its buffer. Both decide who
//! has to drive the connection ([`crate::upstream::connection::h1`]).

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use waypoint_filters::service::body::{Body, BodyError, passes};
use waypoint_filters::stream::wire_bytes::{HeadScan, WireBytes};
use waypoint_hbone::held::holder::Holder;

/// Shared by a connection, its socket, and the body of the request that it sends. All three are polled by one task
/// at a time, so nothing is ordered by these.
#[derive(Default)]
pub(crate) struct Upload {
    /// hyper holds the request's body, and may ask it for more.
    body: AtomicBool,
    /// The socket took less than it was offered.
    blocked: AtomicBool,
    /// The socket takes nothing any more; the answer may still come.
    broken: AtomicBool,
    /// Something came since the request was begun.
    heard: AtomicBool,
    /// Whether there is one in `counter`.
    counted: AtomicBool,
    counter: Mutex<Option<Counter>>,
    /// For whom the socket is to hold what it holds, where that is a tunnel and changes.
    holder: Mutex<Option<Weak<Holder>>>,
    changed: AtomicBool,
}

/// Counts the bytes of the exchange, where a recorder wants to know.
struct Counter {
    wire: Arc<WireBytes>,
    head: HeadScan,
}

impl Upload {
    /// Whether a part of the request is still to be sent.
    pub(crate) fn is_going_on(&self) -> bool {
        self.body.load(Ordering::Relaxed) || self.blocked.load(Ordering::Relaxed)
    }

    /// Whether the connection can't carry anything up any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// A write failed.
    pub(crate) fn broke(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Counts the bytes of the exchange that begins, if somebody wants to know, and no longer those of the one before.
    pub(crate) fn count(&self, wire: Option<&Arc<WireBytes>>) {
        if wire.is_none() && !self.counted.load(Ordering::Relaxed) {
            return;
        }
        self.counted.store(wire.is_some(), Ordering::Relaxed);
        *self.counter.lock() = wire.map(|wire| {
            wire.upstream.begin();
            Counter {
                wire: wire.clone(),
                head: HeadScan::default(),
            }
        });
    }

    /// The exchange that begins is of this tunnel.
    pub(crate) fn hold_for(&self, holder: Option<&Arc<Holder>>) {
        *self.holder.lock() = holder.map(Arc::downgrade);
        self.changed.store(true, Ordering::Relaxed);
    }

    /// For whom the socket is to hold what it holds from now on, if that has changed.
    pub(crate) fn take_holder(&self) -> Option<Option<Arc<Holder>>> {
        if !self.changed.load(Ordering::Relaxed) {
            return None;
        }
        self.changed.store(false, Ordering::Relaxed);
        let holder = self.holder.lock().take();
        Some(holder.and_then(|holder| holder.upgrade()))
    }

    /// Of these, so many bytes were written.
    pub(crate) fn count_sent(&self, slices: &[IoSlice<'_>], written: usize) {
        if self.counted.load(Ordering::Relaxed)
            && let Some(counter) = &mut *self.counter.lock()
        {
            let side = &counter.wire.upstream;
            side.sent.add(written as u64);
            side.sent_headers.add(counter.head.pass(slices, written));
        }
    }

    /// So many bytes were read.
    pub(crate) fn count_received(&self, read: usize) {
        if self.counted.load(Ordering::Relaxed)
            && let Some(counter) = &*self.counter.lock()
        {
            counter.wire.upstream.received.add(read as u64);
        }
    }

    /// The upstream said something.
    pub(crate) fn hear(&self) {
        if !self.heard.load(Ordering::Relaxed) {
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    /// What it said was whole, and no answer.
    pub(crate) fn hear_nothing(&self) {
        self.heard.store(false, Ordering::Relaxed);
    }

    /// Whether an answer that can't be read has begun at all.
    pub(crate) fn was_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// What the socket said to a write.
    pub(crate) fn wrote<T>(&self, result: &Poll<T>) {
        if result.is_pending() != self.blocked.load(Ordering::Relaxed) {
            self.blocked.store(result.is_pending(), Ordering::Relaxed);
        }
    }
}

/// A request's body as a connection sends it.
pub(crate) struct Outgoing {
    body: Body,
    /// `None`: there is nothing to send.
    upload: Option<Arc<Upload>>,
    /// Whether its trailers are sent.
    trailers: bool,
}

impl Outgoing {
    /// A new exchange begins.
    pub(crate) fn new(body: Body, upload: &Arc<Upload>, trailers: bool) -> Outgoing {
        upload.heard.store(false, Ordering::Relaxed);
        let upload = (!body.is_empty()).then(|| upload.clone());
        if let Some(upload) = &upload {
            upload.body.store(true, Ordering::Relaxed);
        }
        Outgoing {
            body,
            upload,
            trailers,
        }
    }

    /// The body of a request that comes back unsent.
    pub(crate) fn into_body(mut self) -> Body {
        std::mem::take(&mut self.body)
    }
}

impl Drop for Outgoing {
    /// hyper drops a body when it has all of it, which may be before the body says that it has ended.
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.body.store(false, Ordering::Relaxed);
        }
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let trailers = this.trailers;
        Pin::new(&mut this.body)
            .poll_frame(cx)
            .map(|frame| frame.filter(|frame| passes(frame, trailers)))
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

    #[test]
    fn it_goes_on_while_there_is_a_body_or_a_full_socket() {
        let upload = Arc::new(Upload::default());
        drop(Outgoing::new(Body::empty(), &upload, false));
        assert!(!upload.is_going_on());
        let body = Outgoing::new(Body::full("abc"), &upload, false);
        assert!(upload.is_going_on());
        upload.wrote(&Poll::<()>::Pending);
        let _ = body.into_body();
        assert!(upload.is_going_on(), "its end is not sent yet");
        upload.wrote(&Poll::Ready(()));
        assert!(!upload.is_going_on());
    }
}
