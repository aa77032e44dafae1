//! How long the head of an HTTP/1 request may take (`request_headers_timeout`): from its first byte to its last.
//!
//! A connection that waits for its next request takes no time, and neither does a head whose client sent it ahead of an
//! answer: nobody looks at it until that has ended. Who sees the bytes keeps the clock, and puts a request of its own in
//! the place of one that is late; the one that is answered knows by its number that it is no client's. So the answer has its
//! place behind those before it. Of heads that come whole, as nearly all do, no clock is kept.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

/// What stands in the place of a head that is late.
pub(crate) const LATE: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// What a connection's reader and its requests tell each other.
#[derive(Default)]
pub(crate) struct Heads {
    /// The number of the request whose head was late, from 1.
    late: AtomicU64,
    /// How many answers have ended, where that matters.
    answered: AtomicU64,
}

impl Heads {
    /// Whether the request after so many was late.
    pub(crate) fn is_late(&self, before: u64) -> bool {
        self.late.load(Ordering::Relaxed) == before + 1
    }

    /// One more answer has ended.
    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_late(&self, before: u64) {
        self.late.store(before + 1, Ordering::Relaxed);
    }
}

/// The clock of one connection.
pub(crate) struct HeadClock {
    limit: Duration,
    /// Whose head it is: how many came before.
    head: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl HeadClock {
    pub(crate) fn new(limit: Duration) -> HeadClock {
        HeadClock {
            limit,
            head: 0,
            timer: None,
        }
    }

    /// No head has begun.
    pub(crate) fn stop(&mut self) {
        self.timer = None;
    }

    /// Ready when the head after so many others, of which a part has come, is late.
    pub(crate) fn poll_late(&mut self, head: u64, heads: &Heads, cx: &mut Context<'_>) -> Poll<()> {
        if heads.answered.load(Ordering::Relaxed) < head {
            // hyper asks for more when it has answered.
            self.timer = None;
            return Poll::Pending;
        }
        if self.head != head {
            self.head = head;
            self.timer = None;
        }
        let limit = self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.as_mut().poll(cx)
    }
}
