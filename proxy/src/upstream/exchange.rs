//! One request and its answer at an endpoint, over HTTP/1.1, HTTP/2, or up to an upgrade.

use std::pin::{Pin, pin};

use http::StatusCode;
use waypoint_config::model::cluster::upstream_protocol::UpstreamProtocol;
use waypoint_filters::service::Response;
use waypoint_filters::service::body::Body;

use crate::upstream::agreed_upgrade::{Upgrade, agreed};
use crate::upstream::body::{Lease, LeasedConnection, upstream_body};
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::expectation::Waiting;
use crate::upstream::held_body::Hold;
use crate::upstream::message_form::{
    has_two_lengths, is_unasked, say_how_it_is_framed, to_http1, to_http2,
};
use crate::upstream::reach::{Chosen, ToCluster};
use crate::upstream::read_ahead::reading_ahead;
use crate::upstream::timed_body::time_sending;

/// Pooled connections that turn out closed before anything was sent are replaced this often.
const MAX_STALE: u32 = 8;

impl ToCluster<'_> {
    /// Sends a request to the endpoint that was chosen, and waits for the head of its answer.
    pub(crate) async fn exchange(
        &self,
        request: http::Request<Body>,
        chosen: Chosen,
    ) -> Result<Response, UpstreamError> {
        if request.extensions().get::<Upgrade>().is_some() {
            return self.upgrade(request, chosen).await;
        }
        match self.protocol() {
            UpstreamProtocol::Http2 => self.send_h2(request, chosen).await,
            _ => self.send_h1(request, chosen).await,
        }
    }

    async fn send_h1(
        &self,
        request: http::Request<Body>,
        mut chosen: Chosen,
    ) -> Result<Response, UpstreamError> {
        let pools = self.pools(&chosen.endpoint);
        let mut request = request;
        *request.version_mut() = http::Version::HTTP_11;
        say_how_it_is_framed(&mut request);
        let mut stale = 0;
        loop {
            let connected = {
                let connecting = pin!(self.h1(&mut chosen, &pools));
                self.waiting(request.body_mut(), connecting).await
            };
            let mut connection = match connected {
                Ok(connection) => connection,
                Err(error) => return Err(error.with_unsent(Some(request))),
            };
            if stale == 0 {
                time_sending(request.body_mut(), self.stream);
            }
            let pooled = connection.requests > 0;
            match connection.send(request).await {
                // Its connection is dropped with it.
                Ok(response) if is_unasked(&response) || has_two_lengths(&response) => {
                    return Err(UpstreamError::new(UpstreamErrorKind::Protocol));
                }
                Ok(response) => {
                    if let Some(wire) = self.stream.wire() {
                        wire.upstream.receive_headers(response.headers());
                    }
                    let (parts, incoming) = response.into_parts();
                    let lease = Lease {
                        active: Some(chosen.active),
                        connection: LeasedConnection::Http1 {
                            connection: Some(connection),
                            pools,
                        },
                    };
                    let body = upstream_body(incoming, lease).await;
                    return Ok(Response::from_parts(parts, body));
                }
                Err(UpstreamError {
                    unsent: Some(unsent),
                    ..
                }) if pooled && stale < MAX_STALE => {
                    stale += 1;
                    request = *unsent;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for a connection. Where time is limited, the request's end must not be missed meanwhile.
    /// The future is large, and stays where it is.
    async fn waiting<F: Future>(&self, body: &mut Body, connecting: Pin<&mut F>) -> F::Output {
        if self.clock.request_is_limited {
            reading_ahead(body, connecting).await
        } else {
            connecting.await
        }
    }

    async fn send_h2(
        &self,
        mut request: http::Request<Body>,
        mut chosen: Chosen,
    ) -> Result<Response, UpstreamError> {
        let pools = self.pools(&chosen.endpoint);
        to_http2(&mut request);
        let connected = {
            let connecting = pin!(self.h2(&chosen, &pools));
            self.waiting(request.body_mut(), connecting).await
        };
        let (mut connection, stream) = match connected {
            Ok(found) => found,
            Err(error) => return Err(error.with_unsent(Some(to_http1(request)))),
        };
        self.h2_admitted(&mut chosen, &connection)?;
        time_sending(request.body_mut(), self.stream);
        let waiting = request.extensions().get::<Waiting>().cloned();
        let hold = waiting.as_ref().map(|_| Hold::over(request.body_mut()));
        let sent = connection.send(request);
        let response = match &waiting {
            None => sent.await,
            Some(waiting) => Box::pin(waiting.go_on_unless_refused(sent)).await,
        };
        let response = response.map_err(|mut error| {
            error.unsent = error.unsent.map(|unsent| Box::new(to_http1(*unsent)));
            error
        })?;
        let (parts, incoming) = response.into_parts();
        let lease = Lease {
            active: Some(chosen.active),
            connection: LeasedConnection::Http2 {
                _stream: stream,
                _hold: hold
                    .zip(waiting)
                    .map(|(hold, waiting)| hold.ending_if(waiting.is_waiting())),
            },
        };
        let body = upstream_body(incoming, lease).await;
        Ok(Response::from_parts(parts, body))
    }

    /// An upgraded exchange has a connection of its own.
    async fn upgrade(
        &self,
        mut request: http::Request<Body>,
        mut chosen: Chosen,
    ) -> Result<Response, UpstreamError> {
        let pools = self.pools(&chosen.endpoint);
        let downstream = hyper::upgrade::on(&mut request);
        let mut connection = self.h1_for_upgrade(&mut chosen, &pools).await?;
        connection.detach_for_upgrade();
        let response = connection.send(request).await?;
        if has_two_lengths(&response) {
            return Err(UpstreamError::new(UpstreamErrorKind::Protocol));
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(agreed(response, downstream, chosen.active));
        }
        let (parts, incoming) = response.into_parts();
        let lease = Lease {
            active: Some(chosen.active),
            connection: LeasedConnection::Http1 {
                connection: Some(connection),
                pools,
            },
        };
        let body = upstream_body(incoming, lease).await;
        Ok(Response::from_parts(parts, body))
    }
}
