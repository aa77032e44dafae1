//! HTTP/2 connections to an endpoint: a few per endpoint, each shared by many requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use waypoint_filters::body::Body;
use waypoint_filters::stream_info::UpstreamInfo;

use crate::upstream::dial::Dialled;
use crate::upstream::error::UpstreamError;

/// Streams that one connection carries before another is opened: below what servers commonly allow.
pub(crate) const MAX_STREAMS: u32 = 96;

/// One connection; clones share it.
#[derive(Clone)]
pub(crate) struct H2Connection {
    sender: http2::SendRequest<Body>,
    pub(crate) info: Arc<UpstreamInfo>,
    pub(crate) generation: u64,
    pub(crate) opened: Instant,
    active: Arc<AtomicU32>,
}

/// A stream of a connection, for as long as its response's body lasts.
pub(crate) struct H2Stream(Arc<AtomicU32>);

impl Drop for H2Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl H2Connection {
    pub(crate) async fn handshake(
        dialled: Dialled,
        generation: u64,
        now: Instant,
    ) -> Result<H2Connection, UpstreamError> {
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // A stalled stream must not starve the others of the connection's window.
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .max_header_list_size(64 * 1024)
            .handshake(TokioIo::new(dialled.io))
            .await
            .map_err(|error| UpstreamError::from_hyper(&error))?;
        tokio::spawn(async move {
            let _ = driver.await;
        });
        Ok(H2Connection {
            sender,
            info: dialled.info,
            generation,
            opened: now,
            active: Arc::default(),
        })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Streams in flight.
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Takes a place among the connection's streams, if there is one.
    pub(crate) fn reserve(&self) -> Option<H2Stream> {
        if self.active.fetch_add(1, Ordering::Relaxed) >= MAX_STREAMS {
            self.active.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(H2Stream(self.active.clone()))
    }

    /// A stream beyond [`MAX_STREAMS`]: the peer's own limit says when it begins.
    pub(crate) fn crowd(&self) -> H2Stream {
        self.active.fetch_add(1, Ordering::Relaxed);
        H2Stream(self.active.clone())
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Incoming>, UpstreamError> {
        self.sender
            .try_send_request(request)
            .await
            .map_err(|mut failed| {
                let unsent = failed.take_message();
                UpstreamError::from_hyper(failed.error()).with_unsent(unsent)
            })
    }
}
