//! HTTP/2 connections to an endpoint: a few per endpoint, each shared by many requests.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use waypoint_config::model::cluster::upstream_http2::UpstreamHttp2;
use waypoint_config::model::cluster::upstream_tls::UpstreamTls;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::stream_info::UpstreamInfo;
use waypoint_hbone::io::read_ahead::ReadAhead;
use waypoint_hbone::messages::client::{self, ClientOptions, Connected, Requests};
use waypoint_hbone::messages::received::ReceivedBody;

use crate::upstream::connection::informational::relay::Relay;
use crate::upstream::dial::Dialled;
use crate::upstream::dial::upstream_io::Kind;
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
    requests: Requests,
    pub(crate) info: Arc<UpstreamInfo>,
    /// The TLS under it.
    pub(crate) tls: Option<Arc<UpstreamTls>>,
    pub(crate) generation: u64,
    pub(crate) opened: Instant,
    /// What its cluster said when it was made.
    pub(crate) settings: UpstreamHttp2,
    streams: Arc<Streams>,
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
        let io = ReadAhead::at_need(dialled.io, makes_calls);
        let options = ClientOptions {
            // Stalled streams, which may be another client's, must not starve the others of the connection's window.
            stream_window: STREAM_WINDOW,
            connection_window: STREAM_WINDOW * MAX_STREAMS,
            max_send_buffer: SEND_BUFFER,
            max_header_list: 64 * 1024,
            keepalive: settings.keepalive,
        };
        let (requests, driver) = client::handshake(io, options)
            .await
            .map_err(|error| UpstreamError::of(&error))?;
        tokio::spawn(driver);
        Ok(H2Connection {
            requests,
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

    /// Whether it takes no more requests.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.requests.is_closed()
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
        let most = most.min(MAX_STREAMS).min(self.requests.max_streams());
        (self.active() < most).then(|| self.crowd())
    }

    /// A stream beyond those: the peer's own limit says when it begins.
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
    ) -> Result<http::Response<ReceivedBody>, UpstreamError> {
        let relay = request.extensions().get::<Relay>().cloned();
        let sent = self.requests.send(*request, relay.as_ref());
        sent.await.map_err(|failed| {
            UpstreamError::of(&failed.error).with_unsent(failed.unsent.map(Box::new))
        })
    }

    /// Asks for a tunnel on a stream (RFC 8441).
    pub(crate) async fn connect(
        &mut self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Connected>, UpstreamError> {
        let asked = self.requests.connect(request);
        asked.await.map_err(|error| UpstreamError::of(&error))
    }
}
