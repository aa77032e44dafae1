//! A tunnel's byte stream, on either side.
//!
//! It can be used in two ways. As [`Bytes`]: [`poll_data`](TunnelStream::poll_data) hands on what the peer sent without
//! a copy, and the flow-control window is given back only when the caller says that the bytes went
//! onward ([`release`](TunnelStream::release)), so a slow receiver slows the sender. As `AsyncRead` and `AsyncWrite`, for those that need them: one copy, the
//! window is given back on read, and a vectored write leaves in one DATA frame.
//!
//! `finish` or `shutdown` ends our direction (END_STREAM); the other goes on. A stream dropped before both
//! directions have ended is reset with CANCEL, so the peer can tell an end from a failure.
//!
//! Every call into h2 takes the connection's mutex. So the window is given back in steps of [`RELEASE_STEP`], and up to
//! [`UNCHECKED`] bytes are sent without asking for capacity: most answers need a single call.
//!
//! h2 bounds the bytes that wait to be sent, not the frames that they are in. Where somebody keeps account of what is held
//! ([`hold`](TunnelStream::hold)), frames count too, and a stream with [`MAX_UNSENT`] of both waits.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use crate::held::holder::Holder;
use crate::http2::RELEASE_STEP;
use crate::identity::Identity;
use crate::io::reset::io_error;
use crate::tls::tls_info::TlsInfo;
use crate::tunnel::connection::Lease;
use crate::tunnel::held_by::{Held, MAX_UNSENT, Watcher};

/// [`RELEASE_STEP`] once nothing more is there to be read: many quiet tunnels must not keep their connection's window.
const QUIET_STEP: usize = 4 * 1024;

/// So many bytes may be handed to h2 between two questions for capacity. This bounds what a stalled peer
/// makes us keep beyond its window.
const UNCHECKED: usize = 16 * 1024;

/// Frames below this are small.
pub(crate) const SMALL_FRAME: usize = 512;

/// The most that one `poll_write` copies.
const MAX_WRITE: usize = 256 * 1024;

/// One tunnel.
pub struct TunnelStream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Pushed back, or read by `poll_read` only in part; goes out before anything else.
    unread: Bytes,
    /// Handed out and not yet released by the caller.
    held: usize,
    /// Released by the caller and not yet given to h2.
    unreleased: usize,
    /// Sent since capacity was last asked for.
    unchecked: usize,
    finished: bool,
    ended: bool,
    /// The connection's window is small for the streams that it may have: nothing of it is held back.
    gives_back_all: bool,
    response_headers: Option<Box<HeaderMap>>,
    /// Holds the place in the pool's connection, on the client's side.
    lease: Option<Lease>,
    held_by: Option<Box<Held>>,
    /// What the peer's first bytes must not begin with, until those have come.
    unwanted: Option<u8>,
}

impl TunnelStream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream) -> TunnelStream {
        TunnelStream {
            send,
            recv,
            unread: Bytes::new(),
            held: 0,
            unreleased: 0,
            unchecked: 0,
            finished: false,
            ended: false,
            gives_back_all: false,
            response_headers: None,
            lease: None,
            held_by: None,
            unwanted: None,
        }
    }

    /// A stream of a connection with a small window and many streams.
    pub(crate) fn of_many(send: SendStream<Bytes>, recv: RecvStream) -> TunnelStream {
        let mut stream = TunnelStream::new(send, recv);
        stream.gives_back_all = true;
        stream
    }

    /// From now on, what the stream holds is `holder`'s.
    pub fn hold(&mut self, holder: &Arc<Holder>) {
        holder.watch(self.recv.flow_control().clone());
        self.held_by = Some(Held::new(Watcher::Own(holder.clone()), holder));
    }

    /// From now on, what is to be sent on this stream, and what has come on it and nobody took, is held for `holder`, which
    /// is another stream's: where that one's bytes go onward. `None`: for nobody.
    pub fn carry_for(&mut self, holder: Option<&Arc<Holder>>) {
        let Some(holder) = holder else {
            self.held_by = None;
            return;
        };
        if (self.held_by.as_ref()).is_some_and(|held| held.is_carried_for(holder)) {
            return;
        }
        let number = holder.watch_onward(self.recv.flow_control().clone());
        let carried = Watcher::Carried(Arc::downgrade(holder), number);
        self.held_by = Some(Held::new(carried, holder));
    }

    pub(crate) fn with_lease(mut self, lease: Lease, response_headers: HeaderMap) -> TunnelStream {
        self.response_headers = (!response_headers.is_empty()).then(|| Box::new(response_headers));
        self.lease = Some(lease);
        self
    }

    /// The next bytes from the peer, without a copy. `None`: the peer ended its direction.
    ///
    /// Call [`release`](TunnelStream::release) when they went onward. A reset by the peer is an error of kind
    /// `ConnectionReset`. Each frame is a part of the task's turn, as each read of a socket is: a peer that sends many
    /// small ones doesn't keep others from running.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if !self.unread.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.unread))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            let turn = ready!(coop::poll_proceed(cx));
            let Poll::Ready(data) = self.recv.poll_data(cx) else {
                self.release_from(QUIET_STEP);
                return Poll::Pending;
            };
            turn.made_progress();
            return Poll::Ready(match data {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => {
                    self.held += bytes.len();
                    let unwanted = self.unwanted.take();
                    if unwanted.is_some() && bytes.first() == unwanted.as_ref() {
                        self.ended = true;
                        let reason = "the first bytes are of a protocol that may not follow now";
                        return Poll::Ready(Some(Err(io::Error::other(reason))));
                    }
                    Some(Ok(bytes))
                }
                Some(Err(error)) => Some(Err(io_error(error))),
                None => {
                    self.ended = true;
                    None
                }
            });
        }
    }

    /// [`poll_data`](TunnelStream::poll_data) as a future. Cancelling it loses nothing.
    pub async fn data(&mut self) -> Option<io::Result<Bytes>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    /// What comes next from the peer is an error if it begins with this byte.
    pub fn refuse_first(&mut self, unwanted: u8) {
        self.unwanted = Some(unwanted);
    }

    /// Puts bytes back: the next read hands them out again. They stay unreleased.
    pub fn unread(&mut self, bytes: Bytes) {
        self.unread = if self.unread.is_empty() {
            bytes
        } else {
            [bytes, std::mem::take(&mut self.unread)].concat().into()
        };
    }

    /// Says that `n` of the bytes handed out went onward: the peer may send as many again.
    pub fn release(&mut self, n: usize) {
        let n = n.min(self.held);
        self.held -= n;
        self.unreleased += n;
        self.release_from(RELEASE_STEP);
    }

    /// Gives the window back if so much of it or more is due.
    fn release_from(&mut self, step: usize) {
        let step = if self.gives_back_all { 1 } else { step };
        if self.unreleased >= step {
            // It fails only for a stream that is gone, and with it goes its window.
            let _ = self.recv.flow_control().release_capacity(self.unreleased);
            self.unreleased = 0;
        }
    }

    /// Sends from the front of `bytes`, without a copy. Ready when at least one byte was taken; what is left in `bytes`
    /// awaits another call.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<()>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let n = ready!(self.poll_send_room(cx, bytes.len()))?;
        self.send_frame(bytes.split_to(n))?;
        Poll::Ready(Ok(()))
    }

    /// Sends all of `bytes`, without a copy.
    pub async fn send_all(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            std::future::poll_fn(|cx| self.poll_send(cx, &mut bytes)).await?;
        }
        Ok(())
    }

    /// Ends our direction; the peer's goes on. Doing it again does nothing.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.finished {
            return Ok(());
        }
        self.finished = true;
        self.send
            .send_data(Bytes::new(), true)
            .map_err(|error| self.send_error(error))
    }

    /// Resets the stream with CANCEL: both directions end at once, and unsent bytes are lost.
    pub fn cancel(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }

    /// Ready when the peer has reset the stream, or the connection is gone.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.send
            .poll_reset(cx)
            .map(|result| io_error(result.map_or_else(|error| error, h2::Error::from)))
    }

    /// Whether the peer ended its direction and all of it was read.
    pub fn is_end(&self) -> bool {
        self.unread.is_empty() && (self.ended || self.recv.is_end_stream())
    }

    /// The headers of the answer to our CONNECT, on the client's side.
    pub fn response_headers(&self) -> Option<&HeaderMap> {
        self.response_headers.as_deref()
    }

    /// The identity of the server, on the client's side.
    pub fn server_identity(&self) -> Option<&Identity> {
        self.lease.as_ref().map(Lease::peer)
    }

    /// The TLS under it, on the client's side.
    pub fn tls(&self) -> Option<&Arc<TlsInfo>> {
        self.lease.as_ref().map(Lease::tls)
    }

    /// How many bytes may be sent now, at most `wanted`.
    fn poll_send_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if let Some(held) = &self.held_by {
            ready!(held.unsent.poll_below(cx, MAX_UNSENT));
        }
        if self.unchecked + wanted <= UNCHECKED {
            self.unchecked += wanted;
            return Poll::Ready(Ok(wanted));
        }
        self.send.reserve_capacity(wanted);
        let mut room = self.send.capacity();
        if room == 0 {
            room = match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(self.send_error(error))),
                None => return Poll::Ready(Err(self.closed_error())),
            };
        }
        // There is room beyond all that was sent before, so the peer's window covers it.
        self.unchecked = 0;
        Poll::Ready(Ok(room.min(wanted)))
    }

    fn send_frame(&mut self, bytes: Bytes) -> io::Result<()> {
        let bytes = match &self.held_by {
            Some(held) => held.unsent.charge(bytes),
            None => bytes,
        };
        self.send
            .send_data(bytes, false)
            .map_err(|error| self.send_error(error))
    }

    /// h2 answers a call on a stream that the peer has reset with "inactive stream"; the reason is more telling.
    fn send_error(&mut self, error: h2::Error) -> io::Error {
        match self.reset_reason() {
            Some(reset) => reset,
            None if error.is_io() || error.is_reset() || error.is_go_away() => io_error(error),
            None => io::Error::new(io::ErrorKind::BrokenPipe, error),
        }
    }

    fn closed_error(&mut self) -> io::Error {
        self.reset_reason()
            .unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn reset_reason(&mut self) -> Option<io::Error> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.poll_reset(&mut cx) {
            Poll::Ready(error) => Some(error),
            Poll::Pending => None,
        }
    }

    fn poll_write_slices(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = slices
            .iter()
            .map(|slice| slice.len())
            .sum::<usize>()
            .min(MAX_WRITE);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_send_room(cx, wanted))?;
        let mut frame = Vec::with_capacity(room);
        for slice in slices {
            let take = slice.len().min(room - frame.len());
            frame.extend_from_slice(slice.get(..take).unwrap_or_default());
        }
        self.send_frame(frame.into())?;
        Poll::Ready(Ok(room))
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        // Small frames that have come together are one read. An end, or an error, is told again by the next.
        while buf.remaining() > 0 {
            let some = buf.filled().len() > before;
            let mut bytes = match this.poll_data(cx) {
                Poll::Ready(Some(Ok(bytes))) => bytes,
                _ if some => break,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => break,
                Poll::Pending => return Poll::Pending,
            };
            let n = bytes.len().min(buf.remaining());
            buf.put_slice(bytes.get(..n).unwrap_or_default());
            bytes.advance(n);
            this.unread = bytes;
            this.release(n);
            if n >= SMALL_FRAME {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_slices(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_slices(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes whatever its streams have, as soon as it runs.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().finish())
    }
}

impl std::fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelStream")
            .field("id", &self.recv.stream_id())
            .field("finished", &self.finished)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand tunnels shall not cost more than they need.
    #[test]
    fn a_stream_is_small() {
        assert!(
            size_of::<TunnelStream>() <= 192,
            "{}",
            size_of::<TunnelStream>()
        );
    }
}
