//! The body of a request in text: base64, which browsers may end with padding in more than one place, once for each message.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;

use crate::service::body::{Body, BodyError};

/// The request is no base64; in Envoy's words why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid(pub(super) &'static str);

/// A body that is decoded on its way.
pub(super) struct DecodedBody {
    body: Body,
    /// Fewer than four, which wait for more.
    rest: Vec<u8>,
    /// Told of what is invalid.
    tell: Option<oneshot::Sender<Invalid>>,
}

impl DecodedBody {
    pub(super) fn new(body: Body, tell: oneshot::Sender<Invalid>) -> DecodedBody {
        DecodedBody {
            body,
            rest: Vec::new(),
            tell: Some(tell),
        }
    }

    /// What of all that came is whole.
    fn decode(&mut self, data: &[u8]) -> Result<Vec<u8>, Invalid> {
        self.rest.extend_from_slice(data);
        let whole = self.rest.len() / 4 * 4;
        let decoded = decode(self.rest.get(..whole).unwrap_or_default());
        self.rest.drain(..whole);
        decoded.ok_or(Invalid("grpc_base_64_decode_failed"))
    }

    fn fail(&mut self, invalid: Invalid) -> BodyError {
        if let Some(tell) = self.tell.take() {
            let _ = tell.send(invalid);
        }
        self.body = Body::empty();
        self.rest.clear();
        invalid.0.into()
    }
}

/// Groups of four, of which each may be the last of a message.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if let Ok(whole) = STANDARD.decode(text) {
        return Some(whole);
    }
    let groups = text.chunks(4).map(|group| STANDARD.decode(group));
    Some(groups.collect::<Result<Vec<_>, _>>().ok()?.concat())
}

impl http_body::Body for DecodedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
            let Some(frame) = frame.transpose()? else {
                if this.rest.is_empty() {
                    return Poll::Ready(None);
                }
                let invalid = this.fail(Invalid("grpc_base_64_decode_failed_bad_size"));
                return Poll::Ready(Some(Err(invalid)));
            };
            match frame.into_data() {
                Ok(data) => match this.decode(&data) {
                    Ok(decoded) if decoded.is_empty() => {}
                    Ok(decoded) => return Poll::Ready(Some(Ok(Frame::data(decoded.into())))),
                    Err(invalid) => return Poll::Ready(Some(Err(this.fail(invalid)))),
                },
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    async fn decoded(text: &str, size: usize) -> (Option<Vec<u8>>, Option<Invalid>) {
        let chunks: Vec<_> = text
            .as_bytes()
            .chunks(size)
            .map(|chunk| Ok::<_, BodyError>(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        let body = Body::boxed(StreamBody::new(futures_util::stream::iter(chunks)));
        let (tell, told) = oneshot::channel();
        let body = DecodedBody::new(body, tell).collect().await;
        (
            body.ok().map(|body| body.to_bytes().to_vec()),
            told.await.ok(),
        )
    }

    #[tokio::test]
    async fn text_is_decoded_however_it_is_cut() {
        for size in 1..12 {
            for (text, bytes) in [
                ("AAAAAAA=", &[0; 5][..]),
                ("AAAAAAFhAAAAAAFi", b"\0\0\0\0\x01a\0\0\0\0\x01b"),
                ("AAAAAAA=AAAAAAA=", &[0; 10]),
                ("", b""),
            ] {
                let (found, invalid) = decoded(text, size).await;
                assert_eq!((found.as_deref(), invalid), (Some(bytes), None), "{text}");
            }
            for (text, why) in [
                ("AAAAA", "grpc_base_64_decode_failed_bad_size"),
                ("AA-A", "grpc_base_64_decode_failed"),
                ("A=AA", "grpc_base_64_decode_failed"),
            ] {
                assert_eq!(
                    decoded(text, size).await,
                    (None, Some(Invalid(why))),
                    "{text}"
                );
            }
        }
    }
}
