//! A request's body that can be sent again: what was read of it is kept for the next attempt, up to a bound.
//!
//! Nothing is copied and nothing is waited for: the first attempt streams the body as it comes, the
//! chunks that passed are kept by reference. A body that grows over the bound is forgotten, and the
//! request has no further attempt then (as with Envoy's buffer limit).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use waypoint_filters::service::body::{Body, BodyError};

/// Bytes kept of one body.
const LIMIT: usize = 64 * 1024;
/// Chunks kept of one body: each costs more than its bytes.
const MAX_CHUNKS: usize = 256;

/// The body between two attempts.
pub(crate) struct Replay(Arc<Mutex<Source>>);

struct Source {
    body: Body,
    kept: Vec<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Too much, or broken: there is no further attempt.
    lost: bool,
    /// The first attempt that may read; an earlier one may still be held by its connection.
    first: u32,
    attempts: u32,
    size: SizeHint,
}

struct Attempt {
    source: Arc<Mutex<Source>>,
    attempt: u32,
    next: usize,
    finished: bool,
}

impl Replay {
    /// Takes a body apart: what the first attempt sends, and the way to further ones.
    pub(crate) fn split(body: Body) -> (Replay, Body) {
        let size = body.size_hint();
        let source = Arc::new(Mutex::new(Source {
            body,
            kept: Vec::new(),
            bytes: 0,
            trailers: None,
            ended: false,
            lost: false,
            first: 0,
            attempts: 1,
            size,
        }));
        let first = Attempt::body(source.clone(), 0);
        (Replay(source), first)
    }

    /// The body from its beginning. The attempts before read no more. `None`: it is not whole any more.
    pub(crate) fn again(&self) -> Option<Body> {
        let attempt = self.next()?;
        self.0.lock().first = attempt;
        Some(Attempt::body(self.0.clone(), attempt))
    }

    /// The body from its beginning, while the attempts before go on. Only of a body that has come to its end: several
    /// can't wait for the rest of one. `None`: as above.
    pub(crate) fn beside(&self) -> Option<Body> {
        let attempt = self.next()?;
        self.0
            .lock()
            .ended
            .then(|| Attempt::body(self.0.clone(), attempt))
    }

    /// Whether what came of it is kept.
    pub(crate) fn is_kept(&self) -> bool {
        !self.0.lock().lost
    }

    fn next(&self) -> Option<u32> {
        let mut source = self.0.lock();
        if source.lost {
            return None;
        }
        source.attempts += 1;
        Some(source.attempts - 1)
    }
}

impl Attempt {
    fn body(source: Arc<Mutex<Source>>, attempt: u32) -> Body {
        Body::boxed(Attempt {
            source,
            attempt,
            next: 0,
            finished: false,
        })
    }
}

impl Source {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.bytes = self.bytes.saturating_add(data.len());
            if self.lost || self.bytes > LIMIT || self.kept.len() >= MAX_CHUNKS {
                self.lost = true;
                self.kept = Vec::new();
            } else {
                self.kept.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.ended = true;
        }
    }
}

impl http_body::Body for Attempt {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut guard = this.source.lock();
        let source = &mut *guard;
        if this.attempt < source.first {
            return Poll::Ready(Some(Err("another attempt took over".into())));
        }
        if this.finished {
            return Poll::Ready(None);
        }
        if let Some(chunk) = source.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if source.ended {
            this.finished = true;
            let trailers = source.trailers.clone();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = Pin::new(&mut source.body).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => {
                source.ended = true;
                this.finished = true;
            }
            Poll::Ready(Some(Ok(frame))) => {
                source.keep(frame);
                this.finished = source.ended;
                this.next = source.kept.len();
                source.ended |= source.body.is_end_stream();
            }
            Poll::Ready(Some(Err(_))) => source.lost = true,
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.lock();
        self.finished
            || (source.ended && source.trailers.is_none() && self.next >= source.kept.len())
    }

    fn size_hint(&self) -> SizeHint {
        // Asked for before the first frame, to choose the framing.
        self.source.lock().size
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::BodyExt;

    use super::*;

    struct Scripted(VecDeque<Frame<Bytes>>);

    impl http_body::Body for Scripted {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn scripted(chunks: &[usize], trailers: bool) -> Body {
        let mut frames: VecDeque<_> = chunks
            .iter()
            .map(|n| Frame::data(Bytes::from(vec![b'x'; *n])))
            .collect();
        if trailers {
            let mut map = HeaderMap::new();
            map.insert("x-sum", http::HeaderValue::from_static("1"));
            frames.push_back(Frame::trailers(map));
        }
        Body::boxed(Scripted(frames))
    }

    #[tokio::test]
    async fn a_body_comes_again_whole_even_if_it_was_read_in_part() {
        let (replay, mut first) = Replay::split(scripted(&[3, 4, 5], true));
        first.frame().await.unwrap().unwrap();
        let mut second = replay.again().unwrap();
        assert!(
            first.frame().await.unwrap().is_err(),
            "the first attempt is over"
        );
        second.frame().await.unwrap().unwrap();
        second.frame().await.unwrap().unwrap();
        let third = replay.again().unwrap().collect().await.unwrap();
        assert!(third.trailers().is_some());
        assert_eq!(third.to_bytes().len(), 12);
    }

    #[tokio::test]
    async fn attempts_beside_each_other_have_the_whole_body_once_it_has_ended() {
        let (replay, mut first) = Replay::split(scripted(&[3, 4], true));
        first.frame().await.unwrap().unwrap();
        assert!(replay.beside().is_none(), "the rest is to come");
        while let Some(frame) = first.frame().await {
            frame.unwrap();
        }
        let (second, third) = (replay.beside().unwrap(), replay.beside().unwrap());
        for body in [third, second] {
            let whole = body.collect().await.unwrap();
            assert!(whole.trailers().is_some());
            assert_eq!(whole.to_bytes().len(), 7);
        }
    }

    #[tokio::test]
    async fn a_body_over_the_bound_still_passes_but_comes_only_once() {
        let (replay, first) = Replay::split(scripted(&[LIMIT, 1, 1], false));
        assert_eq!(first.collect().await.unwrap().to_bytes().len(), LIMIT + 2);
        assert!(replay.again().is_none());
        assert!(replay.0.lock().kept.is_empty(), "nothing is held");
    }

    #[tokio::test]
    async fn many_small_chunks_are_too_many_as_well() {
        let (replay, first) = Replay::split(scripted(&[1; MAX_CHUNKS], false));
        first.collect().await.unwrap();
        assert!(replay.again().is_some());
        let (replay, first) = Replay::split(scripted(&[1; MAX_CHUNKS + 1], false));
        let bytes = first.collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len(), MAX_CHUNKS + 1);
        assert!(replay.again().is_none());
    }
}
