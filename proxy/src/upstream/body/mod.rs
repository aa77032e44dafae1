//! The body of an upstream's answer: it drives its connection and hands it back when both have ended.

pub(crate) mod held_body;
pub(crate) mod timed_body;

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use waypoint_config::model::cluster::circuit_breakers::Resource;
use waypoint_config::model::endpoint::EndpointState;
use waypoint_config::model::outlier::Outcome;
use waypoint_filters::service::body::{Body, BodyError, passes};

use crate::upstream::body::held_body::Hold;
use crate::upstream::connection::h1::H1Connection;
use crate::upstream::connection::h2::H2Stream;
use crate::upstream::error::{BrokenOff, UpstreamError, UpstreamErrorKind};
use crate::upstream::judge::Judge;
use crate::upstream::limits::{Limits, Permit};
use crate::upstream::pools::HostPools;

/// What an exchange holds of its upstream, until the response's body has ended.
pub(crate) struct Lease {
    /// Counts the request. Ends before the connection does: whoever waits for the connection may come next.
    pub(crate) active: Option<ActiveRequest>,
    pub(crate) connection: LeasedConnection,
    /// Told if the answer breaks off.
    pub(crate) judge: Option<Arc<Judge>>,
}

pub(crate) enum LeasedConnection {
    Http1 {
        connection: Option<Box<H1Connection>>,
        pools: Arc<HostPools>,
    },
    Http2 {
        _stream: H2Stream,
        _hold: Option<Hold>,
    },
}

/// One request in flight at an endpoint.
pub(crate) struct ActiveRequest {
    endpoint: Arc<EndpointState>,
    /// Among the cluster's, where they are limited.
    permit: Option<Permit>,
}

impl ActiveRequest {
    pub(crate) fn new(state: &Arc<EndpointState>) -> ActiveRequest {
        state.active.fetch_add(1, Ordering::Relaxed);
        ActiveRequest {
            endpoint: state.clone(),
            permit: None,
        }
    }

    /// Counts the request among the cluster's, once; the error is an overflow.
    pub(crate) fn admit(&mut self, limits: Option<&Limits>) -> Result<(), UpstreamError> {
        if let Some(limits) = limits
            && self.permit.is_none()
        {
            self.permit = Some(limits.take(Resource::Requests)?);
        }
        Ok(())
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// The answer has ended: gives a pooled connection back, at once or when the request has ended, too. One that
    /// can't carry another request is closed.
    fn finish(&mut self, cx: &mut Context<'_>) {
        self.active = None;
        if let LeasedConnection::Http1 { connection, pools } = &mut self.connection
            && let Some(mut connection) = connection.take()
        {
            if connection.poll_reusable(cx) {
                pools.h1.put(connection, Instant::now());
            } else if connection.is_uploading() {
                finish_in_time(connection, pools.clone());
            }
        }
    }

    /// An answer that began before the request was sent: neither may wait for the other from here on.
    fn part_early(&mut self) {
        if let LeasedConnection::Http1 { connection, pools } = &mut self.connection
            && let Some(connection) = connection.take_if(|connection| connection.is_uploading())
        {
            finish_in_time(connection, pools.clone());
        }
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let LeasedConnection::Http1 {
            connection: Some(connection),
            ..
        } = &mut self.connection
        {
            connection.drive(cx);
        }
    }
}

/// Drives an exchange to its end in a task of its own, whoever reads the answer; then the connection goes back to
/// its pool. Where one side doesn't end in order (the client left, the upstream closed), hyper ends the connection,
/// and the task with it.
fn finish_in_time(mut connection: Box<H1Connection>, pools: Arc<HostPools>) {
    tokio::spawn(async move {
        if std::future::poll_fn(|cx| connection.poll_over(cx)).await {
            pools.h1.put(connection, Instant::now());
        }
    });
}

struct UpstreamBody<B> {
    incoming: B,
    lease: Option<Lease>,
    http2: bool,
    /// Whether its trailers pass.
    trailers: bool,
}

impl<B> UpstreamBody<B> {
    /// Whose fault it is that the answer broke off. Over HTTP/1.1 it is its framing that is broken, however that came.
    fn broken_off(&self, error: &(dyn Error + 'static)) -> BrokenOff {
        BrokenOff(if self.http2 {
            UpstreamError::of(error).kind
        } else {
            UpstreamErrorKind::Protocol
        })
    }
}

/// The response's body together with the connection that it comes on.
pub(crate) async fn upstream_body<B>(incoming: B, mut lease: Lease) -> Body
where
    B: http_body::Body<Data = Bytes, Error: Error> + Send + Unpin + 'static,
{
    if incoming.is_end_stream() {
        std::future::poll_fn(|cx| {
            lease.finish(cx);
            Poll::Ready(())
        })
        .await;
        return Body::empty();
    }
    let (http2, trailers) = match &lease.connection {
        LeasedConnection::Http1 { connection, .. } => {
            (false, connection.as_ref().is_some_and(|c| c.trailers))
        }
        LeasedConnection::Http2 { .. } => (true, true),
    };
    lease.part_early();
    Body::boxed(UpstreamBody {
        incoming,
        http2,
        trailers,
        lease: Some(lease),
    })
}

impl<B: http_body::Body<Data = Bytes, Error: Error + 'static> + Unpin> http_body::Body
    for UpstreamBody<B>
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut polled = Pin::new(&mut this.incoming).poll_frame(cx);
        if polled.is_pending()
            && let Some(lease) = &mut this.lease
        {
            lease.drive(cx);
            polled = Pin::new(&mut this.incoming).poll_frame(cx);
        }
        match polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(_))) if !this.incoming.is_end_stream() => {}
            Poll::Ready(Some(Ok(_)) | None) => {
                if let Some(mut lease) = this.lease.take() {
                    lease.finish(cx);
                }
            }
            Poll::Ready(Some(Err(_))) => {
                if let Some(judge) = this.lease.take().and_then(|lease| lease.judge) {
                    judge.tell(Outcome::Failed);
                }
            }
        }
        polled.map(|frame| {
            let frame = frame.filter(|frame| passes(frame, this.trailers));
            frame.map(|f| f.map_err(|error| this.broken_off(&error).into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
