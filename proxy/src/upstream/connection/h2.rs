//! HTTP/2 connections to an endpoint: a few per endpoint, each shared by many requests.

use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::sync::Notify;
use waypoint_config::model::cluster::upstream_http2::UpstreamHttp2;
use waypoint_config::model::cluster::upstream_tls::UpstreamTls;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::stream_info::UpstreamInfo;
use waypoint_hbone::io::read_ahead::ReadAhead;
use waypoint_hbone::io::wire::{Gathered, Wire};

use crate::upstream::dial::Dialled;
use crate::upstream::dial::upstream_io::{Kind, UpstreamIo};
use crate::upstream::error::UpstreamError;

/// Streams that one connection carries before another is opened: below what servers commonly allow. Not exact: two
/// that reserve at once may both get the last place.
pub(crate) const MAX_STREAMS: u32 = 96;

/// What an endpoint may send on one stream that nobody takes.
const STREAM_WINDOW: u32 = 512 << 10;
/// Unsent bytes of one stream.
const SEND_BUFFER: usize = 64 << 10;

/// One connection; clones share it.
#[derive(Clone)]
pub(crate) struct H2Connection {
    sender: http2::SendRequest<Body>,
    pub(crate) info: Arc<UpstreamInfo>,
    /// The TLS under it.
    pub(crate) tls: Option<Arc<UpstreamTls>>,
    pub(crate) generation: u64,
    pub(crate) opened: Instant,
    /// What its cluster said when it was made.
    pub(crate) settings: UpstreamHttp2,
    streams: Arc<Streams>,
}

/// Runs a connection's tasks; what the one that drives it writes in a turn is one write.
#[derive(Clone)]
struct Gathering(Gathered<ReadAhead<UpstreamIo>>);

impl<F> Executor<F> for Gathering
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let gathered = self.0.clone();
        tokio::spawn(GatheringTask { task, gathered });
    }
}

pin_project! {
    struct GatheringTask<F> {
        #[pin]
        task: F,
        gathered: Gathered<ReadAhead<UpstreamIo>>,
    }
}

impl<F: Future> Future for GatheringTask<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        (this.gathered).poll_turn(cx, |cx| this.task.as_mut().poll(cx))
    }
}

/// What the clones of a connection count together.
#[derive(Default)]
struct Streams {
    /// In flight.
    active: AtomicU32,
    /// Since the beginning.
    begun: AtomicU32,
    /// When the last one ended, in milliseconds since the connection was opened.
    ended: AtomicU64,
    /// Told when one ends, where requests may wait for that.
    freed: Option<Arc<Notify>>,
}

/// A stream of a connection, for as long as its response's body lasts.
pub(crate) struct H2Stream {
    streams: Arc<Streams>,
    opened: Instant,
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        let age = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.streams.ended.fetch_max(age, Ordering::Relaxed);
        self.streams.active.fetch_sub(1, Ordering::Relaxed);
        if let Some(freed) = &self.streams.freed {
            freed.notify_one();
        }
    }
}

impl H2Connection {
    pub(crate) async fn handshake(
        dialled: Dialled,
        settings: UpstreamHttp2,
        freed: &Arc<Notify>,
        generation: u64,
        now: Instant,
    ) -> Result<H2Connection, UpstreamError> {
        // Below TLS there is one already.
        let makes_calls = matches!(dialled.io.kind, Kind::Tcp(_));
        let (wire, gathered) = Wire::gathering(ReadAhead::at_need(dialled.io, makes_calls));
        let mut builder = http2::Builder::new(Gathering(gathered));
        builder
            .timer(TokioTimer::new())
            // Stalled streams, which may be another client's, must not starve the others of the connection's window.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .max_header_list_size(64 * 1024);
        if let Some((interval, timeout)) = settings.keepalive {
            builder
                .keep_alive_interval(Some(interval))
                .keep_alive_timeout(timeout)
                .keep_alive_while_idle(true);
        }
        let (sender, driver) = builder
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|error| UpstreamError::from_hyper(&error))?;
        tokio::spawn(async move {
            let _ = driver.await;
        });
        Ok(H2Connection {
            sender,
            info: dialled.info,
            tls: dialled.tls,
            generation,
            opened: now,
            settings,
            streams: Arc::new(Streams {
                freed: settings.max_streams.map(|_| freed.clone()),
                ..Streams::default()
            }),
        })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Streams in flight.
    pub(crate) fn active(&self) -> u32 {
        self.streams.active.load(Ordering::Relaxed)
    }

    /// Streams since the beginning.
    pub(crate) fn begun(&self) -> u32 {
        self.streams.begun.load(Ordering::Relaxed)
    }

    /// Since when there is no stream; `None`: there are some.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let ended = Duration::from_millis(self.streams.ended.load(Ordering::Relaxed));
        (self.active() == 0).then(|| self.opened + ended)
    }

    /// Takes a place among the connection's streams, if there is one.
    pub(crate) fn reserve(&self) -> Option<H2Stream> {
        let most = self
            .settings
            .max_streams
            .map_or(MAX_STREAMS, NonZeroU32::get);
        (self.active() < most.min(MAX_STREAMS)).then(|| self.crowd())
    }

    /// A stream beyond [`MAX_STREAMS`]: the peer's own limit says when it begins.
    pub(crate) fn crowd(&self) -> H2Stream {
        self.streams.active.fetch_add(1, Ordering::Relaxed);
        self.streams.begun.fetch_add(1, Ordering::Relaxed);
        H2Stream {
            streams: self.streams.clone(),
            opened: self.opened,
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Box<http::Request<Body>>,
    ) -> Result<http::Response<Incoming>, UpstreamError> {
        self.sender
            .try_send_request(*request)
            .await
            .map_err(|mut failed| {
                let unsent = failed.take_message().map(Box::new);
                UpstreamError::from_hyper(failed.error()).with_unsent(unsent)
            })
    }
}
