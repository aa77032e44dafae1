//! The body of an answer: gRPC's messages, and its trailers as one more frame.
//!
//! In text each frame is written by itself, with padding at its end. Nothing is held of it but what a group of three bytes
//! lacks: an answer streams.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::service::body::{Body, BodyError};

/// The flag of a frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// A body whose trailers are a frame of it.
pub(super) struct EncodedBody {
    body: Body,
    /// `None`: it is sent as bytes.
    text: Option<TextFrames>,
    ended: bool,
}

impl EncodedBody {
    pub(super) fn new(body: Body, text: bool) -> EncodedBody {
        EncodedBody {
            body,
            text: text.then(TextFrames::default),
            ended: false,
        }
    }

    fn encode(&mut self, data: Bytes) -> Bytes {
        match &mut self.text {
            None => data,
            Some(text) => text.encode(&data),
        }
    }
}

/// Frames as base64, each by itself.
#[derive(Default)]
struct TextFrames {
    prefix: [u8; 5],
    have: usize,
    /// Bytes of the current frame that are still to come.
    left: usize,
    /// Fewer than three, which wait for more.
    group: Vec<u8>,
}

impl TextFrames {
    fn encode(&mut self, mut data: &[u8]) -> Bytes {
        let mut out = String::new();
        while let [first, rest @ ..] = data {
            if self.have < self.prefix.len() {
                self.prefix[self.have] = *first;
                self.have += 1;
                self.group.push(*first);
                data = rest;
                if self.have == self.prefix.len() {
                    let [_, a, b, c, d] = self.prefix;
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                }
            } else {
                let (now, later) = data.split_at(self.left.min(data.len()));
                self.group.extend_from_slice(now);
                self.left -= now.len();
                data = later;
            }
            let ended = self.have == self.prefix.len() && self.left == 0;
            let whole = match ended {
                true => self.group.len(),
                false => self.group.len() / 3 * 3,
            };
            STANDARD.encode_string(self.group.get(..whole).unwrap_or_default(), &mut out);
            self.group.drain(..whole);
            if ended {
                self.have = 0;
            }
        }
        out.into()
    }

    /// What is left of a frame that didn't come whole.
    fn finish(&mut self) -> Bytes {
        STANDARD.encode(std::mem::take(&mut self.group)).into()
    }
}

fn trailers_frame(trailers: &HeaderMap) -> Bytes {
    let mut lines = BytesMut::new();
    for (name, value) in trailers {
        lines.put_slice(name.as_str().as_bytes());
        lines.put_slice(b":");
        lines.put_slice(value.as_bytes());
        lines.put_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + lines.len());
    frame.put_u8(TRAILERS);
    frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    frame.put_slice(&lines);
    frame.freeze()
}

impl http_body::Body for EncodedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()?;
            let data = match frame.map(Frame::into_data) {
                Some(Ok(data)) => this.encode(data),
                Some(Err(frame)) => {
                    this.ended = true;
                    let rest = this.text.as_mut().map(TextFrames::finish);
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let frame = this.encode(trailers_frame(&trailers));
                    match rest {
                        Some(rest) if !rest.is_empty() => [rest, frame].concat().into(),
                        _ => frame,
                    }
                }
                None => {
                    this.ended = true;
                    this.text
                        .as_mut()
                        .map(TextFrames::finish)
                        .unwrap_or_default()
                }
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    async fn encoded(frames: Vec<Frame<Bytes>>, text: bool) -> Bytes {
        let frames = frames.into_iter().map(Ok::<_, BodyError>);
        let body = Body::boxed(StreamBody::new(futures_util::stream::iter(frames)));
        let body = EncodedBody::new(body, text).collect().await.unwrap();
        assert!(body.trailers().is_none());
        body.to_bytes()
    }

    fn ok() -> Frame<Bytes> {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Frame::trailers(trailers)
    }

    #[tokio::test]
    async fn each_frame_is_written_by_itself_however_it_is_cut() {
        let wire = b"\0\0\0\0\x02hi\0\0\0\0\0\0\0\0\0\x01!";
        let trailers = "gAAAAA9ncnBjLXN0YXR1czowDQo=";
        let right = format!("AAAAAAJoaQ==AAAAAAA=AAAAAAEh{trailers}");
        for size in 1..=wire.len() {
            let chunks = wire.chunks(size).map(Bytes::copy_from_slice);
            let frames = chunks.map(Frame::data).chain([ok()]).collect();
            assert_eq!(encoded(frames, true).await, right, "{size}");
        }
        let frames = vec![Frame::data(Bytes::from_static(wire)), ok()];
        let right = [&wire[..], b"\x80\0\0\0\x0fgrpc-status:0\r\n"].concat();
        assert_eq!(encoded(frames, false).await, right);
    }

    #[tokio::test]
    async fn a_frame_that_breaks_off_arrives_as_far_as_it_came() {
        let frames = vec![Frame::data(Bytes::from_static(b"\0\0\0\0\x05hell"))];
        assert_eq!(encoded(frames, true).await, "AAAAAAVoZWxs");
    }
}
