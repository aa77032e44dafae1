//! Answers of the plain ports: whole ones, and one that is written while it is made.

use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

/// A text that is part of the program.
pub(crate) fn fixed(kind: &'static str, body: &'static str) -> Answer {
    answer(
        StatusCode::OK,
        kind,
        Body::Whole(Some(Bytes::from_static(body.as_bytes()))),
    )
}

/// Server-sent events, and where they go in. A reader that takes nothing for long is given up.
pub(crate) fn event_stream() -> (Answer, Events) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let answer = answer(StatusCode::OK, "text/event-stream", Body::Stream(receiver));
    (answer, Events(sender))
}

/// The way to a reader of events.
pub(crate) struct Events(mpsc::Sender<Bytes>);

impl Events {
    /// # Errors
    /// The reader is gone, or doesn't read.
    pub(crate) async fn send(&self, events: String) -> io::Result<()> {
        match self.0.send_timeout(events.into(), STALLED).await {
            Ok(()) => Ok(()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Returns when the reader is gone.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// A file to be kept.
pub(crate) fn file(named: &'static str, content: Vec<u8>) -> Answer {
    let body = Body::Whole(Some(content.into()));
    let mut answer = answer(StatusCode::OK, "application/octet-stream", body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(named));
    answer
}

pub(crate) fn html(body: String) -> Answer {
    let body = Body::Whole(Some(body.into()));
    answer(StatusCode::OK, "text/html; charset=UTF-8", body)
}

pub(crate) fn json(value: &serde_json::Value) -> Answer {
    let body = Body::Whole(Some(format!("{value:#}\n").into()));
    answer(StatusCode::OK, "application/json", body)
}

/// JSON that `write` writes on a thread for what blocks. When it fails, or its reader is gone, it ends early.
pub(crate) fn json_stream(
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Answer {
    stream("application/json", false, None, write)
}

/// The same, of any kind. It is made in turn with others, if there are `turns`; while its reader isn't ready for more it has
/// none.
pub(crate) fn stream(
    kind: &'static str,
    gzip: bool,
    turns: Option<Arc<Semaphore>>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Answer {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let mut writer = ChunkWriter {
        sender,
        runtime: Handle::current(),
        chunk: Vec::with_capacity(CHUNK),
        turns,
        turn: None,
    };
    tokio::task::spawn_blocking(move || {
        writer.take_turn();
        let written = match gzip {
            false => write(&mut writer),
            true => {
                let mut packed = GzEncoder::new(&mut writer, Compression::fast());
                write(&mut packed).and_then(|()| packed.finish().map(drop))
            }
        };
        if let Err(error) = written.and_then(|()| writer.flush()) {
            tracing::debug!(%error, "an answer was not read to its end");
        }
    });
    let mut answer = answer(StatusCode::OK, kind, Body::Stream(receiver));
    let headers = answer.headers_mut();
    let vary = HeaderValue::from_static("accept, accept-encoding");
    headers.insert(header::VARY, vary);
    if gzip {
        let encoding = HeaderValue::from_static("gzip");
        headers.insert(header::CONTENT_ENCODING, encoding);
    }
    answer
}

/// Hands on what is written in chunks.
pub(crate) struct ChunkWriter {
    sender: mpsc::Sender<Bytes>,
    runtime: Handle,
    chunk: Vec<u8>,
    turns: Option<Arc<Semaphore>>,
    turn: Option<OwnedSemaphorePermit>,
}

impl ChunkWriter {
    fn take_turn(&mut self) {
        if let Some(turns) = self.turns.clone() {
            self.turn = self.runtime.block_on(turns.acquire_owned()).ok();
        }
    }

    /// Waits until the reader has taken enough for one more.
    fn send_later(&mut self, chunk: Bytes) -> io::Result<()> {
        self.turn = None;
        let sending = tokio::time::timeout(STALLED, self.sender.send(chunk));
        match self.runtime.block_on(sending) {
            Ok(Ok(())) => self.take_turn(),
            Ok(Err(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        Ok(())
    }
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
        match self.sender.try_send(chunk.into()) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(TrySendError::Full(chunk)) => self.send_later(chunk),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read as _;

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

    #[tokio::test]
    async fn what_is_packed_is_the_same_unpacked() {
        let answer = stream("text/plain", true, None, |out| {
            (0..20_000).try_for_each(|n| writeln!(out, "{n}"))
        });
        assert_eq!(answer.headers()["content-encoding"], "gzip");
        let packed = answer.into_body().collect().await.unwrap().to_bytes();
        let mut text = String::new();
        let read = flate2::read::GzDecoder::new(&*packed).read_to_string(&mut text);
        assert!(read.unwrap() > packed.len());
        assert!(text.ends_with("\n19999\n"), "{}", text.len());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_reads_slowly_has_no_turn() {
        let turns = Arc::new(Semaphore::new(1));
        let large = |out: &mut dyn Write| (0..100).try_for_each(|_| out.write_all(&[b'x'; 10_000]));
        let unread = stream("text/plain", false, Some(turns.clone()), large);
        let read = stream("text/plain", false, Some(turns.clone()), large);
        let whole = read.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(whole.len(), 1_000_000);
        drop(unread);
    }
}
