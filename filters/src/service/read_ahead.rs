//! A request's body that is read while the request waits, for its connection or for a fault's delay, up to a bound.
//!
//! A route's time counts from the request's end, and nobody would see that end, or that the client is gone, who doesn't read.
//! A connection that is there at once, as nearly always, costs nothing: the body stays what it is.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::service::body::{Body, BodyError};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// Bytes read of one body.
const LIMIT: usize = 64 * 1024;
/// Frames read of one body: each costs more than its bytes.
const MAX_FRAMES: usize = 256;

/// Waits for `awaited`, and reads `body` meanwhile.
pub async fn reading_ahead<F: Future>(body: &mut Body, mut awaited: Pin<&mut F>) -> F::Output {
    let mut read: Option<Box<ReadAhead>> = None;
    let output = poll_fn(|cx| {
        if let Poll::Ready(output) = awaited.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        if read.is_some() || !body.is_empty() {
            let read = read.get_or_insert_with(|| Box::new(ReadAhead::of(std::mem::take(body))));
            read.read(cx);
        }
        Poll::Pending
    })
    .await;
    if let Some(read) = read {
        *body = Body::boxed(*read);
    }
    output
}

struct ReadAhead {
    frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    bytes: usize,
    rest: Body,
    /// Nothing more comes of the rest.
    ended: bool,
    /// Of what wasn't passed on yet, where it is known.
    size: Option<u64>,
}

impl ReadAhead {
    fn of(body: Body) -> ReadAhead {
        ReadAhead {
            frames: VecDeque::new(),
            bytes: 0,
            size: http_body::Body::size_hint(&body).exact(),
            rest: body,
            ended: false,
        }
    }

    fn read(&mut self, cx: &mut Context<'_>) {
        while !self.ended && self.bytes < LIMIT && self.frames.len() < MAX_FRAMES {
            let Poll::Ready(frame) = self.poll_rest(cx) else {
                return;
            };
            if let Some(Ok(frame)) = &frame {
                self.bytes += frame.data_ref().map_or(0, Bytes::len);
            }
            self.frames.extend(frame);
        }
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = http_body::Body::poll_frame(Pin::new(&mut self.rest), cx);
        self.ended = match &polled {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(_))) => http_body::Body::is_end_stream(&self.rest),
            Poll::Ready(None | Some(Err(_))) => true,
        };
        polled
    }
}

impl http_body::Body for ReadAhead {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match this.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => this.poll_rest(cx),
        };
        if let (Poll::Ready(Some(Ok(frame))), Some(size)) = (&polled, &mut this.size) {
            let data = frame.data_ref().map_or(0, Bytes::len);
            *size = size.saturating_sub(data as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && (self.ended || http_body::Body::is_end_stream(&self.rest))
    }

    fn size_hint(&self) -> SizeHint {
        self.size.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::pin::pin;

    use http_body_util::BodyExt;
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    struct Chunks(mpsc::UnboundedReceiver<Result<Bytes, BodyError>>);

    impl http_body::Body for Chunks {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            let polled = self.0.poll_recv(cx);
            polled.map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
        }
    }

    #[tokio::test]
    async fn what_was_read_comes_first_and_no_more_than_the_bound_is_read() {
        let (send, chunks) = mpsc::unbounded_channel();
        for n in 0..=u8::MAX {
            send.send(Ok(Bytes::from(vec![n; 1024]))).unwrap();
        }
        let mut body = Body::boxed(Chunks(chunks));
        let (go, waiting) = oneshot::channel();
        let queued = send.clone();
        let going = tokio::spawn(async move {
            tokio::task::yield_now().await;
            go.send(queued).unwrap();
        });
        let queued = reading_ahead(&mut body, pin!(waiting)).await.unwrap();
        going.await.unwrap();
        drop((queued, send));
        let all = body.collect().await.unwrap().to_bytes();
        let right: Vec<u8> = (0..=u8::MAX).flat_map(|n| vec![n; 1024]).collect();
        assert_eq!(all, right);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_so_after_what_came() {
        let (send, chunks) = mpsc::unbounded_channel();
        send.send(Ok(Bytes::from_static(b"ab"))).unwrap();
        send.send(Err("gone".into())).unwrap();
        let mut body = Body::boxed(Chunks(chunks));
        reading_ahead(&mut body, pin!(tokio::task::yield_now())).await;
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "ab");
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_connection_that_is_there_leaves_the_body_alone() {
        let mut body = Body::full("abc");
        reading_ahead(&mut body, pin!(std::future::ready(()))).await;
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(3));
        reading_ahead(&mut body, pin!(tokio::task::yield_now())).await;
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(3));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }
}
