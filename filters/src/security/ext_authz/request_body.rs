//! A request's body that is read for a check before anything of it goes on, up to a bound (`BufferSettings`).
//!
//! What is read is copied and charged to the tunnel: chunks as they came count as the request's that are on its way, of
//! which only so many may come, and the request would wait for itself.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::BufferSettings;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use waypoint_hbone::held::account::Account;

use crate::service::body::{Body, BodyError};
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;

/// Bytes are kept in pieces of this size, however small the chunks are that they come in.
const PIECE: usize = 16 * 1024;

pub(crate) static BUFFER_SETTINGS: Table = Table {
    name: "envoy.extensions.filters.http.ext_authz.v3.BufferSettings",
    fields: &[
        honoured(1, "max_request_bytes"),
        honoured(2, "allow_partial_message"),
        honoured(3, "pack_as_bytes"),
    ],
    refused: "",
    required: &[required("max_request_bytes", &[1])],
};

/// How much of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffering {
    pub(crate) most: usize,
    /// Whether a part will do; otherwise a body that is larger is refused.
    pub(crate) partial: bool,
    /// Whether it is told as bytes, not as text.
    pub(crate) as_bytes: bool,
}

/// A body of which the beginning was read.
pub(crate) struct BufferedBody {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    /// All of it was read.
    ended: bool,
    rest: Body,
    /// Of the whole, as it was said before anything came.
    size: SizeHint,
}

/// Why a body wasn't read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    TooLarge,
    /// It never came whole.
    Broken,
}

impl Buffering {
    pub(crate) fn from_proto(proto: &BufferSettings) -> Result<Buffering, Refusal> {
        match usize::try_from(proto.max_request_bytes) {
            Ok(most) if most > 0 => Ok(Buffering {
                most,
                partial: proto.allow_partial_message,
                as_bytes: proto.pack_as_bytes,
            }),
            _ => Err(Refusal::new("max_request_bytes", "must be more than 0")),
        }
    }

    /// Reads to the body's end, or as far as it goes.
    pub(crate) async fn read(
        self,
        body: Body,
        stream: &StreamInfo,
    ) -> Result<BufferedBody, Unread> {
        let holder = stream.connection.holder.as_ref();
        let mut pieces = Pieces {
            full: VecDeque::new(),
            last: BytesMut::new(),
            account: holder.map(|holder| holder.account().clone()),
        };
        let mut read = BufferedBody {
            size: body.size_hint(),
            pieces: VecDeque::new(),
            bytes: 0,
            trailers: None,
            ended: false,
            rest: body,
        };
        while !(read.ended || self.partial && read.bytes >= self.most) {
            let frame = match read.rest.frame().await {
                None => {
                    read.ended = true;
                    break;
                }
                Some(frame) => frame.map_err(|_| Unread::Broken)?,
            };
            match frame.into_data() {
                Ok(data) => {
                    read.bytes = read.bytes.saturating_add(data.len());
                    if !self.partial && read.bytes > self.most {
                        return Err(Unread::TooLarge);
                    }
                    pieces.add(data);
                    read.ended = read.rest.is_end_stream();
                }
                Err(frame) => {
                    read.trailers = frame.into_trailers().ok();
                    read.ended = true;
                }
            }
        }
        read.pieces = pieces.done();
        Ok(read)
    }
}

/// Bytes on their way to be pieces.
struct Pieces {
    full: VecDeque<Bytes>,
    last: BytesMut,
    account: Option<Arc<Account>>,
}

impl Pieces {
    fn add(&mut self, mut data: Bytes) {
        while !data.is_empty() {
            let room = PIECE - self.last.len().min(PIECE);
            self.last
                .extend_from_slice(&data.split_to(room.min(data.len())));
            if self.last.len() >= PIECE {
                self.keep();
            }
        }
    }

    fn keep(&mut self) {
        let piece = std::mem::take(&mut self.last).freeze();
        self.full.push_back(match &self.account {
            Some(account) => account.charge(piece),
            None => piece,
        });
    }

    fn done(mut self) -> VecDeque<Bytes> {
        if !self.last.is_empty() {
            self.keep();
        }
        self.full
    }
}

impl BufferedBody {
    /// At most so many bytes of what was read.
    pub(crate) fn beginning(&self, most: usize) -> Vec<u8> {
        let mut beginning = Vec::with_capacity(self.bytes.min(most));
        for piece in &self.pieces {
            let room = most - beginning.len();
            beginning.extend_from_slice(piece.get(..room).unwrap_or(piece));
        }
        beginning
    }

    /// Whether there may be more than so many bytes.
    pub(crate) fn is_longer_than(&self, most: usize) -> bool {
        self.bytes > most || !self.ended
    }

    /// The whole body, from its beginning.
    pub(crate) fn into_body(self) -> Body {
        Body::boxed(self)
    }
}

impl http_body::Body for BufferedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(piece) = this.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if this.ended {
            let trailers = this.trailers.take();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut this.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
            && match self.ended {
                true => self.trailers.is_none(),
                false => self.rest.is_end_stream(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        // Asked for before the first frame, to choose the framing.
        self.size
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Instant, SystemTime};

    use http::HeaderValue;
    use http_body_util::StreamBody;
    use waypoint_hbone::held::holder::{Holder, Share};

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::stream_info::Protocol;

    fn stream() -> Arc<StreamInfo> {
        let address = ([10, 0, 0, 1], 80).into();
        let mut connection = Connection::new(address, address, Instant::now());
        connection.holder = Some(Holder::new(&Share::new(&Account::top())));
        let now = (Instant::now(), SystemTime::now());
        StreamInfo::new(Arc::new(connection), Protocol::Http11, now.0, now.1)
    }

    fn body(chunks: &[usize], trailers: bool) -> Body {
        let data = |length: &usize| Frame::data(Bytes::from(vec![b'x'; *length]));
        let mut frames: Vec<_> = chunks.iter().map(data).map(Ok::<_, BodyError>).collect();
        if trailers {
            let mut map = HeaderMap::new();
            map.insert("x-sum", HeaderValue::from_static("1"));
            frames.push(Ok(Frame::trailers(map)));
        }
        Body::boxed(StreamBody::new(futures_util::stream::iter(frames)))
    }

    fn buffering(most: usize, partial: bool) -> Buffering {
        Buffering {
            most,
            partial,
            as_bytes: true,
        }
    }

    #[tokio::test]
    async fn a_body_within_the_bound_is_read_and_goes_on_whole() {
        let stream = stream();
        let account = stream.connection.holder.as_ref().unwrap().account().clone();
        let large = 3 * PIECE + 5;
        let read = buffering(large, false).read(body(&[1, large - 2, 1], true), &stream);
        let read = read.await.unwrap();
        assert_eq!(read.beginning(7).len(), 7);
        assert_eq!(read.beginning(usize::MAX).len(), large);
        assert!(!read.is_longer_than(large) && read.is_longer_than(large - 1));
        assert!(account.held() >= large, "{}", account.held());
        let whole = read.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["x-sum"], "1");
        assert_eq!(whole.to_bytes().len(), large);
        assert_eq!(account.held(), 0);
    }

    #[tokio::test]
    async fn a_larger_one_is_refused_or_told_in_part() {
        let stream = stream();
        let refused = buffering(9, false)
            .read(body(&[5, 5], false), &stream)
            .await;
        assert_eq!(refused.err(), Some(Unread::TooLarge));
        let part = buffering(9, true).read(body(&[5, 5, 5], false), &stream);
        let part = part.await.unwrap();
        assert_eq!(part.beginning(9).len(), 9);
        assert!(part.is_longer_than(9));
        let whole = part.into_body().collect().await.unwrap();
        assert_eq!(whole.to_bytes().len(), 15);
        // As long as it may be, and nobody knows whether more is to come.
        let open = buffering(9, true).read(body(&[9, 1], false), &stream).await;
        assert!(open.unwrap().is_longer_than(9));
    }

    #[tokio::test]
    async fn one_that_breaks_off_is_never_told() {
        let stream = stream();
        let frames = [
            Ok(Frame::data(Bytes::from_static(b"x"))),
            Err("gone".into()),
        ];
        let frames = futures_util::stream::iter(frames);
        let broken = Body::boxed(StreamBody::<_>::new(frames.map_err(|e: BodyError| e)));
        let read = buffering(9, true).read(broken, &stream).await;
        assert_eq!(read.err(), Some(Unread::Broken));
        assert!(Buffering::from_proto(&BufferSettings::default()).is_err());
    }

    use futures_util::TryStreamExt as _;
}
