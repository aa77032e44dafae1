//! An HTTP/1.1 connection to an endpoint, driven by the request that uses it.
//!
//! hyper's connection future is not spawned: whoever waits for the response, and later its body, polls
//! the connection as well. So a request's bytes cross no task boundary on their way up and down, which
//! saves two wake-ups a request. An idle connection is polled by nobody; it is checked when it is taken
//! from the pool and by the pool's sweep.
//!
//! The one case in which this would stall is a request body that is still being sent while the client
//! doesn't read the response; such a connection gets a task of its own ([`H1Connection::detach`]).

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use waypoint_filters::body::Body;
use waypoint_filters::stream_info::UpstreamInfo;

use crate::upstream::dial::Dialled;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::io::UpstreamIo;

/// One connection.
pub(crate) struct H1Connection {
    sender: http1::SendRequest<Body>,
    driver: Option<http1::Connection<TokioIo<UpstreamIo>, Body>>,
    pub(crate) info: Arc<UpstreamInfo>,
    /// The own certificate's generation under which it was made.
    pub(crate) generation: u64,
    pub(crate) opened: Instant,
    pub(crate) idle_since: Instant,
    pub(crate) requests: u32,
}

impl H1Connection {
    pub(crate) async fn handshake(
        dialled: Dialled,
        generation: u64,
        now: Instant,
    ) -> Result<Box<H1Connection>, UpstreamError> {
        let (sender, driver) = http1::Builder::new()
            .handshake(TokioIo::new(dialled.io))
            .await
            .map_err(|error| UpstreamError::from_hyper(&error))?;
        Ok(Box::new(H1Connection {
            sender,
            driver: Some(driver),
            info: dialled.info,
            generation,
            opened: now,
            idle_since: now,
            requests: 0,
        }))
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Incoming>, UpstreamError> {
        self.requests += 1;
        let mut response = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let answered = std::future::poll_fn(|cx| {
            // Hands the request over, drives it, and looks whether that brought the answer.
            if let Poll::Ready(result) = response.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            drive(driver, cx);
            response.as_mut().poll(cx)
        })
        .await;
        answered.map_err(|mut failed| {
            let unsent = failed.take_message();
            let error = if unsent.is_some() {
                // The pooled connection had been closed by the upstream: nothing was sent.
                UpstreamError::new(UpstreamErrorKind::Terminated)
            } else {
                UpstreamError::from_hyper(failed.error())
            };
            error.with_unsent(unsent)
        })
    }

    /// Polls the connection; afterwards its body has what there is to have.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.driver, cx);
    }

    /// Whether the exchange is over on both sides and the connection can carry another.
    pub(crate) fn poll_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.driver.is_some() && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }

    /// Whether an idle connection is still open.
    pub(crate) fn poll_alive(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Gives the connection a task of its own; it is not pooled again.
    pub(crate) fn detach(&mut self) {
        if let Some(driver) = self.driver.take() {
            tokio::spawn(async move {
                let _ = driver.await;
            });
        }
    }

    /// As [`detach`](H1Connection::detach), for an exchange that may be upgraded.
    pub(crate) fn detach_for_upgrade(&mut self) {
        if let Some(driver) = self.driver.take() {
            tokio::spawn(async move {
                let _ = driver.with_upgrades().await;
            });
        }
    }
}

fn drive(driver: &mut Option<http1::Connection<TokioIo<UpstreamIo>, Body>>, cx: &mut Context<'_>) {
    if let Some(connection) = driver
        && Pin::new(connection).poll(cx).is_ready()
    {
        *driver = None;
    }
}
