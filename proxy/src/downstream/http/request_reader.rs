//! Reads an HTTP/1 request stream before hyper does, and writes to the client what hyper can't.
//!
//! Bytes go straight into hyper's buffer and are looked at there: a head that came whole, as nearly all do,
//! and bodies cost no copy. Only a head that comes in parts, or is to be rewritten, is kept here until it is
//! whole; a head that no request may have is replaced by one that hyper answers as it should be answered.
//! So answers stay in order, whatever the client sends ahead.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::downstream::http::connection::HttpConnection;
use crate::downstream::http::head::bytes::may_become_head;
use crate::downstream::http::head::bytes::{HeadLimits, Rejection};
use crate::downstream::http::head::clock::{HeadClock, LATE};
use crate::downstream::http::head::framing::{Framing, Stop};

/// The stream under hyper's server.
pub(crate) struct RequestReader<S> {
    stream: S,
    connection: Arc<HttpConnection>,
    framing: Framing,
    limits: HeadLimits,
    /// Bytes that wait: `ready` of them for hyper's buffer, the others for the end of their head.
    kept: Vec<u8>,
    ready: usize,
    /// So many bytes of `kept` were looked at.
    seen: usize,
    /// A head was refused, or is late: nothing that follows is read.
    refused: bool,
    clock: Option<HeadClock>,
    /// What is left of a head that is said before an answer.
    saying: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> RequestReader<S> {
    pub(crate) fn new(
        stream: S,
        connection: Arc<HttpConnection>,
        limits: HeadLimits,
    ) -> RequestReader<S> {
        let clock = connection.first.request_headers_timeout;
        let mut framing = Framing::new(limits);
        if connection.wire.is_some() {
            framing.count();
        }
        RequestReader {
            stream,
            connection,
            framing,
            limits,
            kept: Vec::new(),
            ready: 0,
            seen: 0,
            refused: false,
            clock: clock.map(HeadClock::new),
            saying: Bytes::new(),
        }
    }

    /// Hands out what is ready.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let n = self.ready.min(buffer.remaining());
        buffer.put_slice(self.kept.get(..n).unwrap_or_default());
        self.ready -= n;
        if n == self.kept.len() {
            self.kept = Vec::new();
        } else {
            self.kept.drain(..n);
        }
        self.seen = self.seen.saturating_sub(n);
    }

    /// Reads what came into `buffer` after `before`; keeps what may not pass yet.
    fn read_buffer(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let came = buffer.filled_mut().get_mut(before..).unwrap_or_default();
        if self.kept.is_empty() {
            let (passed, stop) = self.advance_over(came);
            if stop == Stop::Done {
                return;
            }
            self.kept
                .extend_from_slice(came.get(passed..).unwrap_or_default());
            buffer.set_filled(before + passed);
            if self.settle(stop) {
                self.read_kept();
            }
        } else {
            self.kept.extend_from_slice(came);
            buffer.set_filled(before);
            if !self.is_more_of_a_line() {
                self.read_kept();
            }
        }
    }

    /// Whether what came to a head's beginning neither ends a line nor anything else.
    fn is_more_of_a_line(&mut self) -> bool {
        let fresh = self.kept.get(self.seen..).unwrap_or_default();
        let more = self.seen > self.ready
            && self.kept.len() - self.ready <= self.limits.bytes
            && fresh.iter().all(|b| *b >= b' ' && *b != 0x7f);
        if more {
            self.seen = self.kept.len();
        }
        more
    }

    /// Reads what was kept as far as its heads are whole.
    fn read_kept(&mut self) {
        loop {
            let mut kept = std::mem::take(&mut self.kept);
            let (passed, stop) = self.advance_over(kept.get_mut(self.ready..).unwrap_or_default());
            self.kept = kept;
            self.ready += passed;
            if !self.settle(stop) {
                return;
            }
        }
    }

    fn advance_over(&mut self, bytes: &mut [u8]) -> (usize, Stop) {
        let advanced = self.framing.advance(bytes);
        if let Some(wire) = &self.connection.wire {
            for (head, bytes) in self.framing.take_counted() {
                wire.receive(head, bytes);
            }
        }
        if self.framing.take_marked() {
            self.connection.informational.expect();
        }
        advanced
    }

    /// Deals with why reading stopped at the first byte that isn't ready; true: it goes on.
    fn settle(&mut self, stop: Stop) -> bool {
        match stop {
            Stop::Done => false,
            Stop::Partial => {
                self.seen = self.kept.len();
                let may = may_become_head(self.kept.get(self.ready..).unwrap_or_default());
                if !may {
                    self.framing.set_raw();
                }
                !may
            }
            Stop::Rewritten(length, head) => {
                let end = self.ready + length;
                self.kept.splice(self.ready..end, head.iter().copied());
                self.ready += head.len();
                true
            }
            Stop::Refused(rejection) => {
                self.kept.truncate(self.ready);
                self.kept
                    .extend_from_slice(&unacceptable(rejection, self.limits));
                self.ready = self.kept.len();
                self.refused = true;
                *self.connection.rejection.lock() = Some(rejection);
                false
            }
        }
    }

    /// Nothing more has come, and nothing is ready: whether the head that has begun is late. It is replaced then.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(clock) = &mut self.clock else {
            return Poll::Pending;
        };
        if self.kept.is_empty() {
            clock.stop();
            return Poll::Pending;
        }
        let (before, heads) = (self.framing.heads(), &self.connection.heads);
        ready!(clock.poll_late(before, heads, cx));
        heads.set_late(before);
        self.kept = LATE.to_vec();
        self.ready = self.kept.len();
        self.refused = true;
        Poll::Ready(())
    }

    fn count_sent(&self, slices: &[IoSlice<'_>], written: &Poll<io::Result<usize>>) {
        if let (Poll::Ready(Ok(written)), Some(wire)) = (written, &self.connection.wire) {
            wire.send(slices, *written);
        }
    }

    /// Writes what is left of the head that is being said.
    fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.saying.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.saying);
            self.count_sent(&[IoSlice::new(&self.saying)], &written);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.saying.advance(n),
            }
            if let (true, Some(wire)) = (self.saying.is_empty(), &self.connection.wire) {
                wire.another_head();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all that is to be said before the answer.
    fn poll_say_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(wire) = &self.connection.wire {
            // What was sent until now is another answer's.
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            wire.flushed();
        }
        loop {
            ready!(self.poll_say(cx))?;
            match self.connection.informational.next() {
                Some(head) => self.saying = head,
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// A head that hyper answers with 431 or 400, and ends the connection.
fn unacceptable(rejection: Rejection, limits: HeadLimits) -> Vec<u8> {
    match rejection {
        Rejection::TooLarge => {
            let too_many = "a:\r\n".repeat(limits.headers.saturating_add(1));
            format!("GET / HTTP/1.1\r\n{too_many}\r\n").into_bytes()
        }
        Rejection::TwoLengths | Rejection::Coding => b"\0\r\n\r\n".to_vec(),
    }
}

impl<S> Drop for RequestReader<S> {
    fn drop(&mut self) {
        if let Some(wire) = &self.connection.wire {
            wire.close();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for RequestReader<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let switched = this.connection.switched.load(Ordering::Relaxed);
        if switched {
            this.framing.set_raw();
            this.ready = this.kept.len();
        }
        loop {
            if this.ready > 0 {
                this.give(buffer);
                return Poll::Ready(Ok(()));
            }
            if this.refused {
                return Poll::Pending;
            }
            let before = buffer.filled().len();
            let in_body = this.framing.in_body();
            match Pin::new(&mut this.stream).poll_read(cx, buffer) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    ready!(this.poll_late(cx));
                    continue;
                }
            }
            if buffer.filled().len() == before {
                if this.kept.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                // The client is gone within a head: hyper says what becomes of that.
                this.framing.set_raw();
                this.ready = this.kept.len();
                continue;
            }
            if in_body {
                this.connection.informational.body_came();
            }
            this.read_buffer(buffer, before);
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for RequestReader<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_say(cx))?;
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.count_sent(&[IoSlice::new(bytes)], &written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_say(cx))?;
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.count_sent(slices, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when nothing of its own is left to be written: what is said before an answer has its place there.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.connection.informational.is_unwritten() {
            ready!(this.poll_say_all(cx))?;
        }
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        if let (Poll::Ready(Ok(())), Some(wire)) = (&flushed, &this.connection.wire) {
            wire.flushed();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_say(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
