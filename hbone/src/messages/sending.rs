//! A body on its way out on an HTTP/2 stream: DATA as it comes and as the peer's window takes it, then trailers or the end.
//!
//! The first bytes need no question for room: what h2 keeps beyond the window is bounded by them. Most bodies are no longer.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use crate::io::reset::h2_error_of;

/// So many bytes of a stream are sent without asking for room.
const UNCHECKED: usize = 16 * 1024;

/// Ready when the body has been handed to the connection, or can't be: the peer has reset the stream, or the body broke
/// off, and the stream was reset with what its error says, or INTERNAL_ERROR.
#[derive(Debug)]
pub struct Sending<B> {
    stream: SendStream<Bytes>,
    body: B,
    /// Taken from the body, waiting for room. Whether it is the last.
    waiting: Option<(Bytes, bool)>,
    unchecked: usize,
    /// Whether nobody else sees that the stream is reset.
    alone: bool,
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// `alone`: nobody else waits for something on the stream.
    pub(super) fn new(stream: SendStream<Bytes>, body: B, alone: bool) -> Sending<B> {
        Sending {
            stream,
            body,
            waiting: None,
            unchecked: 0,
            alone,
        }
    }

    /// From now on nobody else waits for something on the stream.
    pub(super) fn alone(mut self) -> Sending<B> {
        self.alone = true;
        self
    }

    /// Ready when `length` more bytes may be handed to the connection; `false`: the stream takes none any more.
    fn poll_room(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<bool> {
        if self.unchecked + length <= UNCHECKED {
            self.unchecked += length;
            return Poll::Ready(true);
        }
        // The least that says whether there is room: more would keep the connection's window from other streams.
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            if !matches!(ready!(self.stream.poll_capacity(cx)), Some(Ok(_))) {
                return Poll::Ready(false);
            }
        }
        // There is room beyond all that was sent before.
        self.unchecked = 0;
        Poll::Ready(true)
    }

    fn is_reset(&mut self, cx: &mut Context<'_>) -> bool {
        self.alone && self.stream.poll_reset(cx).is_ready()
    }

    fn break_off(&mut self, error: &(dyn Error + 'static)) {
        let reason = h2_error_of(error).and_then(h2::Error::reason);
        (self.stream).send_reset(reason.unwrap_or(Reason::INTERNAL_ERROR));
    }
}

impl<B> Future for Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Output = ();

    // Whoever waits for an answer hears of a failure by that.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            if let Some((bytes, last)) = this.waiting.take() {
                let room = this.poll_room(cx, bytes.len());
                if room.is_pending() {
                    this.waiting = Some((bytes, last));
                    return Poll::Pending;
                }
                let taken = room == Poll::Ready(true) && this.stream.send_data(bytes, last).is_ok();
                if last || !taken {
                    return Poll::Ready(());
                }
            }
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
                return match this.is_reset(cx) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                };
            };
            match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
                Some(Ok(Ok(bytes))) => {
                    this.waiting = Some((bytes, this.body.is_end_stream()));
                }
                Some(Ok(Err(frame))) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let _ = this.stream.send_trailers(trailers);
                        return Poll::Ready(());
                    }
                }
                Some(Err(error)) => {
                    this.break_off(&*error.into());
                    return Poll::Ready(());
                }
                None => {
                    let _ = this.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(());
                }
            }
        }
    }
}
