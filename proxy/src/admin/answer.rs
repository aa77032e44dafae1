//! Answers of the plain ports: whole ones, and one that is written while it is made.

use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Of an answer that is written while it is made, so much goes at a time.
const CHUNK: usize = 64 * 1024;
/// And so many chunks wait for the reader.
const CHUNKS: usize = 4;
/// A reader that takes nothing for so long is given up.
const STALLED: Duration = Duration::from_secs(30);

pub(crate) type Answer = Response<Body>;

/// What is sent.
pub(crate) enum Body {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take()),
            Body::Stream(chunks) => chunks.poll_recv(context),
        };
        next.map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Body::Whole(bytes) => {
                http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Body::Stream(_) => http_body::SizeHint::default(),
        }
    }
}

fn answer(status: StatusCode, kind: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    answer
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let body = Body::Whole(Some(body.into()));
    answer(status, "text/plain; charset=UTF-8", body)
}

/// Envoy's word for done.
pub(crate) fn ok() -> Answer {
    text(StatusCode::OK, "OK\n")
}

pub(crate) fn html(body: String) -> Answer {
    let body = Body::Whole(Some(body.into()));
    answer(StatusCode::OK, "text/html; charset=UTF-8", body)
}

pub(crate) fn json(value: &serde_json::Value) -> Answer {
    let body = Body::Whole(Some(format!("{value:#}\n").into()));
    answer(StatusCode::OK, "application/json", body)
}

/// Prometheus' text format.
pub(crate) fn metrics(text: String) -> Answer {
    let body = Body::Whole(Some(text.into()));
    answer(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        body,
    )
}

/// JSON that `write` writes on a thread for what blocks. When it fails, or its reader is gone, it ends early.
pub(crate) fn json_stream(
    write: impl FnOnce(&mut ChunkWriter) -> io::Result<()> + Send + 'static,
) -> Answer {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let mut writer = ChunkWriter {
        sender,
        runtime: Handle::current(),
        chunk: Vec::with_capacity(CHUNK),
    };
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write(&mut writer).and_then(|()| writer.flush()) {
            tracing::debug!(%error, "an answer was not read to its end");
        }
    });
    answer(StatusCode::OK, "application/json", Body::Stream(receiver))
}

/// Hands on what is written in chunks.
pub(crate) struct ChunkWriter {
    sender: mpsc::Sender<Bytes>,
    runtime: Handle,
    chunk: Vec<u8>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        let sending = tokio::time::timeout(STALLED, self.sender.send(chunk.into()));
        match self.runtime.block_on(sending) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_stream_is_read_whole_and_needs_no_more_than_its_chunks() {
        let answer = json_stream(|out| {
            for _ in 0..100 {
                out.write_all(&[b'x'; 10_000])?;
            }
            Ok(())
        });
        let mut body = answer.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.len() < CHUNK + 10_000, "{}", first.len());
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!(first.len() + rest.len(), 1_000_000);
    }

    #[tokio::test]
    async fn nothing_is_made_for_a_reader_who_is_gone() {
        let (done, ended) = tokio::sync::oneshot::channel();
        let answer = json_stream(move |out| {
            let result = (0..1000).try_for_each(|_| out.write_all(&[b'x'; 10_000]));
            let _ = done.send(result.map_err(|error| error.kind()));
            Ok(())
        });
        drop(answer);
        assert_eq!(ended.await.unwrap(), Err(io::ErrorKind::BrokenPipe));
    }
}
