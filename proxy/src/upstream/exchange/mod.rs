//! One request and its answer at an endpoint, over HTTP/1.1, HTTP/2, or up to an upgrade.

pub(crate) mod agreed_upgrade;
pub(crate) mod message_form;

use std::pin::{Pin, pin};
use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use waypoint_config::model::cluster::upstream_protocol::UpstreamProtocol;
use waypoint_config::model::outlier::Outcome;
use waypoint_filters::service::Response;
use waypoint_filters::service::body::Body;
use waypoint_filters::service::local_reply::is_grpc;
use waypoint_filters::service::read_ahead::reading_ahead;
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_hbone::messages::client::Connected;

use crate::upstream::body::held_body::Hold;
use crate::upstream::body::timed_body::time_sending;
use crate::upstream::body::{Lease, LeasedConnection, upstream_body};
use crate::upstream::connection::expectation::go_on_unless_refused;
use crate::upstream::connection::h1::H1Connection;
use crate::upstream::connection::informational::relay::Relay;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::exchange::agreed_upgrade::{End, Upgrade, agreed};
use crate::upstream::exchange::message_form::{
    has_two_lengths, is_unasked, say_how_it_is_framed, to_extended_connect, to_http1, to_http2,
};
use crate::upstream::judge;
use crate::upstream::pools::HostPools;
use crate::upstream::reach::{Chosen, ToCluster};

/// Pooled connections that turn out closed before anything was sent are replaced this often.
const MAX_STALE: u32 = 8;

impl ToCluster<'_> {
    /// Sends a request to the endpoint that was chosen, and waits for the head of its answer.
    pub(crate) async fn exchange(
        &self,
        request: Box<http::Request<Body>>,
        chosen: Chosen,
    ) -> Result<Response, UpstreamError> {
        let judge = chosen.judge.clone();
        let grpc = judge.is_some() && is_grpc(request.headers());
        let outcome = self.exchanged(request, chosen).await;
        if let Some(judge) = judge {
            self.no_longer_awaited();
            match &outcome {
                Ok(response) => judge.tell(Outcome::Answered(judge::status(response, grpc))),
                Err(error) if !self.is_clients_fault() => judge.failed(error.kind),
                Err(_) => {}
            }
        }
        outcome
    }

    /// Whether the request never came whole, or can't be read.
    fn is_clients_fault(&self) -> bool {
        let gone = ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
        self.stream.state().flags.intersects(gone) || self.stream.is_malformed()
    }

    async fn exchanged(
        &self,
        request: Box<http::Request<Body>>,
        chosen: Chosen,
    ) -> Result<Response, UpstreamError> {
        if request.extensions().get::<Upgrade>().is_some() {
            return Box::pin(self.upgrade(request, chosen)).await;
        }
        let pools = self.pools_for(&request, &chosen);
        match self.protocol() {
            UpstreamProtocol::Http2 => self.send_h2(request, chosen, pools).await,
            UpstreamProtocol::Negotiated => self.send_negotiated(request, chosen, pools).await,
            _ => self.send_h1(request, chosen, pools).await,
        }
    }

    fn pools_for(&self, request: &http::Request<Body>, chosen: &Chosen) -> Arc<HostPools> {
        let host = request.uri().host().or_else(|| {
            let host = request.headers().get(http::header::HOST)?.to_str().ok()?;
            let port = host
                .rfind(':')
                .filter(|colon| !host[*colon..].contains(']'));
            Some(port.map_or(host, |colon| &host[..colon]))
        });
        let host = host.map(|host| host.trim_start_matches('[').trim_end_matches(']'));
        self.pools(&chosen.endpoint, host)
    }

    /// As what the endpoint agrees on.
    async fn send_negotiated(
        &self,
        mut request: Box<http::Request<Body>>,
        chosen: Chosen,
        pools: Arc<HostPools>,
    ) -> Result<Response, UpstreamError> {
        let spoken = {
            let asking = pin!(self.spoken(&chosen, &pools));
            self.waiting(request.body_mut(), asking).await
        };
        match spoken {
            Ok(UpstreamProtocol::Http2) => self.send_h2(request, chosen, pools).await,
            Ok(_) => self.send_h1(request, chosen, pools).await,
            Err(error) => Err(error.with_unsent(Some(request))),
        }
    }

    async fn send_h1(
        &self,
        mut request: Box<http::Request<Body>>,
        mut chosen: Chosen,
        pools: Arc<HostPools>,
    ) -> Result<Response, UpstreamError> {
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
            connection.trailers = self.passes_http1_trailers();
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
                    return Ok(answer(response, connection, pools, chosen).await);
                }
                Err(UpstreamError {
                    unsent: Some(unsent),
                    ..
                }) if pooled && stale < MAX_STALE => {
                    stale += 1;
                    request = unsent;
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
        mut request: Box<http::Request<Body>>,
        mut chosen: Chosen,
        pools: Arc<HostPools>,
    ) -> Result<Response, UpstreamError> {
        to_http2(&mut request);
        let connected = {
            let connecting = pin!(self.h2(&chosen, &pools));
            self.waiting(request.body_mut(), connecting).await
        };
        let (mut connection, stream) = match connected {
            Ok(found) => found,
            Err(error) => {
                to_http1(&mut request);
                return Err(error.with_unsent(Some(request)));
            }
        };
        self.h2_admitted(&mut chosen, &connection)?;
        time_sending(request.body_mut(), self.stream);
        let relay = request.extensions().get::<Relay>();
        let waiting = relay.filter(|relay| relay.is_waiting()).cloned();
        let hold = waiting.as_ref().map(|_| Hold::over(request.body_mut()));
        let sent = connection.send(request);
        let response = match &waiting {
            None => sent.await,
            Some(waiting) => Box::pin(go_on_unless_refused(waiting, sent)).await,
        };
        let response = response.map_err(|mut error| {
            if let Some(unsent) = &mut error.unsent {
                to_http1(unsent);
            }
            error
        })?;
        let (parts, incoming) = response.into_parts();
        let lease = Lease {
            active: Some(chosen.active),
            judge: chosen.judge,
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
        mut request: Box<http::Request<Body>>,
        mut chosen: Chosen,
    ) -> Result<Response, UpstreamError> {
        let pools = self.pools_for(&request, &chosen);
        let downstream = End::of_client(&mut request);
        if self.protocol() == UpstreamProtocol::Http2 {
            return self.upgrade_h2(request, chosen, pools, downstream).await;
        }
        let mut connection = self.h1_for_upgrade(&mut chosen, &pools).await?;
        connection.trailers = self.passes_http1_trailers();
        connection.detach_for_upgrade();
        let mut response = connection.send(request).await?;
        if has_two_lengths(&response) {
            return Err(UpstreamError::new(UpstreamErrorKind::Protocol));
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upstream = End::Http1(hyper::upgrade::on(&mut response));
            return Ok(agreed(response, downstream, upstream, chosen.active, None));
        }
        Ok(answer(response, connection, pools, chosen).await)
    }

    /// Over HTTP/2 it is a stream of a connection that others share (RFC 8441), if the endpoint takes such.
    async fn upgrade_h2(
        &self,
        mut request: Box<http::Request<Body>>,
        mut chosen: Chosen,
        pools: Arc<HostPools>,
        downstream: End,
    ) -> Result<Response, UpstreamError> {
        let protocol = to_extended_connect(&mut request);
        let (mut connection, stream) = self.h2(&chosen, &pools).await?;
        self.h2_admitted(&mut chosen, &connection)?;
        let (mut parts, connected) = connection.connect(*request).await?.into_parts();
        let incoming = match connected {
            Connected::Tunnel(upstream) => {
                parts.status = StatusCode::SWITCHING_PROTOCOLS;
                let headers = &mut parts.headers;
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.extend(protocol.map(|protocol| (header::UPGRADE, protocol)));
                let response = Response::from_parts(parts, Body::empty());
                let upstream = End::Http2(upstream);
                let active = chosen.active;
                return Ok(agreed(response, downstream, upstream, active, Some(stream)));
            }
            Connected::Refused(incoming) => incoming,
        };
        let lease = Lease {
            active: Some(chosen.active),
            judge: chosen.judge,
            connection: LeasedConnection::Http2 {
                _stream: stream,
                _hold: None,
            },
        };
        let body = upstream_body(incoming, lease).await;
        Ok(Response::from_parts(parts, body))
    }
}

/// The answer on an HTTP/1.1 connection, which goes back to its pool with the body's end.
async fn answer(
    response: http::Response<Incoming>,
    connection: Box<H1Connection>,
    pools: Arc<HostPools>,
    chosen: Chosen,
) -> Response {
    let (parts, incoming) = response.into_parts();
    let lease = Lease {
        active: Some(chosen.active),
        judge: chosen.judge,
        connection: LeasedConnection::Http1 {
            connection: Some(connection),
            pools,
        },
    };
    let body = upstream_body(incoming, lease).await;
    Response::from_parts(parts, body)
}
