//! An HTTP/1.1 connection to an endpoint, driven by the request that uses it.
//!
//! hyper's connection future is not spawned: whoever waits for the response, and later its body, polls
//! the connection as well. So a request's bytes cross no task boundary on their way up and down, which
//! saves two wake-ups a request. An idle connection is polled by nobody; it is checked when it is taken
//! from the pool and by the pool's sweep.
//!
//! The one case in which this would stall is a request that is still being sent while the client doesn't read
//! the answer: an answer that began early. Such a connection is driven by a task until the exchange is over on
//! both sides (`upstream/body.rs`). A request that was sent when its answer came, as nearly all are, has none.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use waypoint_config::model::cluster::upstream_tls::UpstreamTls;
use waypoint_config::model::header_case::HeaderCase;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::stream_info::{StreamInfo, UpstreamInfo};

use crate::upstream::connection::informational::relay::Relay;
use crate::upstream::dial::Dialled;
use crate::upstream::dial::upload::{Outgoing, Upload};
use crate::upstream::dial::upstream_io::UpstreamIo;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};

type Driver = http1::Connection<TokioIo<UpstreamIo>, Outgoing>;

/// What is read ahead of an answer, and kept of a request that the endpoint doesn't take. Large answers cost the less the
/// more of them is read at once, up to here; a head has to fit, too
/// (Envoy: 60 KiB).
const BUFFER: usize = 256 * 1024;

/// One connection.
pub(crate) struct H1Connection {
    sender: http1::SendRequest<Outgoing>,
    driver: Option<Driver>,
    upload: Arc<Upload>,
    /// What it holds is in this process's memory.
    in_tunnel: bool,
    pub(crate) info: Arc<UpstreamInfo>,
    /// The TLS under it.
    pub(crate) tls: Option<Arc<UpstreamTls>>,
    /// The own certificate's generation under which it was made.
    pub(crate) generation: u64,
    pub(crate) opened: Instant,
    pub(crate) idle_since: Instant,
    pub(crate) requests: u32,
    /// Whether trailers pass, of the request and of the answer.
    pub(crate) trailers: bool,
    /// The answer came before the client was told to send its body, and it waits for that.
    unasked: bool,
}

impl H1Connection {
    pub(crate) async fn handshake(
        mut dialled: Dialled,
        case: HeaderCase,
        generation: u64,
    ) -> Result<Box<H1Connection>, UpstreamError> {
        let now = Instant::now();
        let upload = Arc::new(Upload::default());
        dialled.io.carry_http1(upload.clone());
        let in_tunnel = dialled.io.kind.is_tunnelled();
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .title_case_headers(case == HeaderCase::Title)
            .preserve_header_case(case == HeaderCase::Preserved)
            .handshake(TokioIo::new(dialled.io))
            .await
            .map_err(|error| UpstreamError::of(&error))?;
        Ok(Box::new(H1Connection {
            sender,
            driver: Some(driver),
            upload,
            in_tunnel,
            info: dialled.info,
            tls: dialled.tls,
            generation,
            opened: now,
            idle_since: now,
            requests: 0,
            trailers: false,
            unasked: false,
        }))
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Box<http::Request<Body>>,
    ) -> Result<http::Response<Incoming>, UpstreamError> {
        self.requests += 1;
        let mut request = request.map(|body| Outgoing::new(body, &self.upload, self.trailers));
        let relay = request.extensions().get::<Relay>().cloned();
        if let Some(relay) = &relay {
            let upload = self.upload.clone();
            relay.listen(&mut request, move || upload.hear_nothing());
        }
        let mut response = pin!(self.sender.try_send_request(request));
        let (driver, upload) = (&mut self.driver, &self.upload);
        let answered = poll_fn(|cx| {
            // Hands the request over, drives it, and looks whether that brought the answer.
            if let Poll::Ready(result) = response.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            drive(driver, cx);
            response.as_mut().poll(cx)
        })
        .await;
        self.unasked = relay.is_some_and(|relay| relay.is_waiting());
        answered.map_err(|mut failed| {
            let unsent = failed.take_message();
            let unsent = unsent.map(|request| Box::new(request.map(Outgoing::into_body)));
            let mut error = if unsent.is_some() {
                // The pooled connection had been closed by the upstream: nothing was sent.
                UpstreamError::new(UpstreamErrorKind::Terminated)
            } else {
                UpstreamError::of(failed.error())
            };
            if error.kind == UpstreamErrorKind::Terminated && upload.was_heard() {
                // Half a head: for Envoy, too, an answer that is no HTTP.
                error.kind = UpstreamErrorKind::Protocol;
            }
            error.with_unsent(unsent)
        })
    }

    /// The next exchange is this stream's: its bytes are counted, if a recorder wants to know, and held for its tunnel.
    pub(crate) fn carry(&self, stream: &StreamInfo) {
        self.upload.count(stream.wire());
        self.hold_for(stream);
    }

    /// What it holds from now on is held for this stream's tunnel.
    pub(crate) fn hold_for(&self, stream: &StreamInfo) {
        if self.in_tunnel {
            self.upload.hold_for(stream.connection.holder.as_ref());
        }
    }

    /// Polls the connection; afterwards its body has what there is to have.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, cx);
    }

    /// Whether a part of the request is still to be sent. A body that nobody asked for never is.
    pub(crate) fn is_uploading(&self) -> bool {
        self.driver.is_some() && self.upload.is_going_on() && !self.unasked
    }

    /// Whether the exchange is over on both sides and the connection can carry another.
    pub(crate) fn poll_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(self.poll_over(cx), Poll::Ready(true))
    }

    /// Ready when the exchange is over on both sides: whether the connection can carry another.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.drive(cx);
        if self.driver.is_none() {
            return Poll::Ready(false);
        }
        let ready = ready!(self.sender.poll_ready(cx)).is_ok();
        if ready && !self.upload.is_broken() && self.upload.is_going_on() {
            // What is left is in hyper's buffer; the socket wakes us when it takes more.
            return Poll::Pending;
        }
        Poll::Ready(ready && !self.upload.is_broken())
    }

    /// Whether an idle connection is still open.
    pub(crate) fn poll_alive(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.driver.is_some() && self.sender.is_ready() && !self.upload.is_broken()
    }

    /// Gives the connection a task of its own, for an exchange that may be upgraded; it is not pooled again.
    pub(crate) fn detach_for_upgrade(&mut self) {
        if let Some(driver) = self.driver.take() {
            tokio::spawn(async move {
                let _ = driver.with_upgrades().await;
            });
        }
    }
}

fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(connection) = driver
        && Pin::new(connection).poll(cx).is_ready()
    {
        *driver = None;
    }
}
