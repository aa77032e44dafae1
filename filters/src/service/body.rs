//! The one body type of the filter chain, for requests and responses.
//!
//! Nothing on the plain path is boxed: an empty body, a few bytes of a local reply and a body that
//! is still being received are variants. A filter that changes a body wraps it in `Boxed`.
//! A metered body counts its data frames into the stream's counters as they pass; trailers and
//! framing are not counted (Envoy's BYTES_RECEIVED and BYTES_SENT). A request's meter also says when it ended:
//! time limits count from then. And it charges the request to its tunnel: it comes no faster than what came before is
//! passed on, for whoever sends it upstream bounds bytes, not frames.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use waypoint_hbone::held::account::Account;
use waypoint_hbone::messages::received::ReceivedBody;

use crate::stream::direction::Direction;
use crate::stream::stream_info::StreamInfo;

/// What ended a body early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request's or a response's body.
#[derive(Debug, Default)]
pub struct Body {
    kind: Kind,
    meter: Option<Meter>,
}

#[derive(Debug, Default)]
enum Kind {
    #[default]
    Empty,
    Full(Option<Bytes>),
    Incoming(Incoming),
    /// The same, whose trailers are dropped.
    DataOf(Incoming),
    /// Of HTTP/2.
    Received(ReceivedBody),
    Boxed(UnsyncBoxBody<Bytes, BodyError>),
}

/// Whether a frame goes on where trailers do or don't: without them they are the body's end.
pub fn passes<E>(frame: &Result<Frame<Bytes>, E>, trailers: bool) -> bool {
    trailers || !frame.as_ref().is_ok_and(Frame::is_trailers)
}

impl Kind {
    fn is_end_stream(&self) -> bool {
        match self {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Incoming(incoming) | Kind::DataOf(incoming) => {
                http_body::Body::is_end_stream(incoming)
            }
            Kind::Received(body) => http_body::Body::is_end_stream(body),
            Kind::Boxed(body) => http_body::Body::is_end_stream(body),
        }
    }
}

#[derive(Debug)]
struct Meter {
    stream: Arc<StreamInfo>,
    direction: Direction,
    /// A request's bytes that are on their way, where they are kept account of.
    held: Option<Arc<Account>>,
}

/// What of a request may be on its way upstream, with what each chunk costs beside its bytes. More than what is kept for a
/// further attempt, or a request would wait for itself.
const ON_ITS_WAY: usize = 256 * 1024;
/// And when more of it is taken again.
const TAKE_MORE_AT: usize = 192 * 1024;

impl Meter {
    fn count(&self, bytes: usize) {
        self.stream.count(self.direction, bytes);
        if self.held.is_some()
            && let Some(holder) = &self.stream.connection.holder
        {
            holder.passed(bytes);
        }
    }
}

impl Body {
    pub fn empty() -> Body {
        Body::default()
    }

    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Body::empty();
        }
        Body {
            kind: Kind::Full(Some(bytes)),
            meter: None,
        }
    }

    /// Nothing in place of bytes of our own; what is received stays as it is.
    #[must_use]
    pub fn without_own(self) -> Body {
        match self.kind {
            Kind::Full(_) => Body::empty(),
            _ => self,
        }
    }

    /// A body that hyper is receiving. One that is known to be empty is dropped here.
    pub fn incoming(incoming: Incoming) -> Body {
        if http_body::Body::is_end_stream(&incoming) {
            return Body::empty();
        }
        Body {
            kind: Kind::Incoming(incoming),
            meter: None,
        }
    }

    /// A body that comes on an HTTP/2 stream. One that is known to be empty is dropped here.
    pub fn received(body: ReceivedBody) -> Body {
        if http_body::Body::is_end_stream(&body) {
            return Body::empty();
        }
        Body {
            kind: Kind::Received(body),
            meter: None,
        }
    }

    /// What hyper is receiving, without trailers.
    #[must_use]
    pub fn without_trailers(mut self) -> Body {
        self.kind = match self.kind {
            Kind::Incoming(incoming) => Kind::DataOf(incoming),
            kind => kind,
        };
        self
    }

    /// A body of any other type; costs an allocation.
    pub fn boxed<B>(body: B) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Body {
            kind: Kind::Boxed(body.map_err(Into::into).boxed_unsync()),
            meter: None,
        }
    }

    /// Counts what passes through this body into `stream`.
    pub fn metered(mut self, stream: &Arc<StreamInfo>, direction: Direction) -> Body {
        if !matches!(self.kind, Kind::Empty) {
            let holder = match direction {
                Direction::Request => stream.connection.holder.as_ref(),
                Direction::Response => None,
            };
            self.meter = Some(Meter {
                stream: stream.clone(),
                direction,
                held: holder.map(|holder| holder.account().exactly_below(TAKE_MORE_AT)),
            });
        } else if direction == Direction::Request {
            stream.request_ended(|| stream.start);
        }
        self
    }

    /// Whether the body is known to have neither data nor trailers, and to be repeatable therefore.
    pub fn is_empty(&self) -> bool {
        matches!(self.kind, Kind::Empty | Kind::Full(None))
    }
}

impl Meter {
    fn ended(&self) {
        if self.direction == Direction::Request {
            self.stream.request_ended(Instant::now);
        }
    }
}

impl Drop for Meter {
    /// A body that is known to be whole is not always asked for its end.
    fn drop(&mut self) {
        self.ended();
    }
}

/// Whether a body ended because its framing is broken, not because its sender is gone.
fn is_malformed(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput};
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return matches!(error.kind(), InvalidData | InvalidInput);
        }
        source = error.source();
    }
    false
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let held = this.meter.as_ref().and_then(|meter| meter.held.as_ref());
        if let Some(held) = held {
            ready!(held.poll_below(cx, ON_ITS_WAY));
        }
        let polled = match &mut this.kind {
            Kind::Empty => return Poll::Ready(None),
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Kind::Incoming(incoming) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|f| f.map_err(Into::into))),
            Kind::DataOf(incoming) => Pin::new(incoming).poll_frame(cx).map(|frame| {
                let data = frame.filter(|frame| passes(frame, false));
                data.map(|f| f.map_err(Into::into))
            }),
            Kind::Received(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|f| f.map_err(Into::into))),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
        };
        match (&this.meter, &polled) {
            (Some(meter), Poll::Ready(Some(Ok(frame)))) => {
                if let Some(data) = frame.data_ref() {
                    meter.count(data.len());
                }
                if frame.is_trailers() || this.kind.is_end_stream() {
                    meter.ended();
                }
            }
            (Some(meter), Poll::Ready(None)) => meter.ended(),
            (Some(meter), Poll::Ready(Some(Err(error))))
                if meter.direction == Direction::Request =>
            {
                meter.stream.request_failed(is_malformed(&**error));
            }
            _ => {}
        }
        match held {
            None => polled,
            Some(held) => polled.map(|frame| {
                frame.map(|frame| frame.map(|f| f.map_data(|data| held.charge(data))))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Incoming(incoming) | Kind::DataOf(incoming) => incoming.size_hint(),
            Kind::Received(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}
