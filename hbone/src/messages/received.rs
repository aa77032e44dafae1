//! The body of a message that is being received on an HTTP/2 stream.
//!
//! The peer's window is given back as the bytes are handed out, small ones in steps: each is a lock of the connection. Little is held
//! back, and nothing on a stream on which nothing more comes: a thousand streams must not keep their connection's window.
//!
//! A reset with NO_ERROR ends the body in good order: the peer has answered and wants no more (RFC 9113 §8.1).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame, SizeHint};

use crate::io::reset::io_error;

/// Bytes of window that are given back at once, while more comes.
const STEP: usize = 2 * 1024;

/// What comes on a stream: DATA, and perhaps trailers.
#[derive(Debug)]
pub struct ReceivedBody {
    stream: RecvStream,
    /// What `content-length` says is still to come.
    remaining: Option<u64>,
    unreleased: usize,
    data_ended: bool,
}

impl ReceivedBody {
    pub(super) fn new(stream: RecvStream, length: Option<u64>) -> ReceivedBody {
        ReceivedBody {
            stream,
            remaining: length,
            unreleased: 0,
            data_ended: false,
        }
    }

    fn release_from(&mut self, step: usize) {
        if self.unreleased >= step {
            // It fails only for a stream that is gone, and with it goes its window.
            let _ = self.stream.flow_control().release_capacity(self.unreleased);
            self.unreleased = 0;
        }
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if !this.data_ended {
            let Poll::Ready(data) = this.stream.poll_data(cx) else {
                this.release_from(1);
                return Poll::Pending;
            };
            match data {
                Some(Ok(bytes)) => {
                    this.unreleased += bytes.len();
                    this.release_from(STEP);
                    if let Some(remaining) = &mut this.remaining {
                        *remaining = remaining.saturating_sub(bytes.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(io_error(error)))),
                None => this.data_ended = true,
            }
        }
        Poll::Ready(match ready!(this.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(io_error(error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining
            .map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
