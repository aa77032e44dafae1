//! The attempts of one request at its cluster: endpoint → connection → answer, and again.
//!
//! Retries go back to the choice of an endpoint, never to the filters. A request is kept for another
//! attempt only where the policy may ask for one after it was sent, its body up to a bound (`replay`);
//! a request that comes back unsent is sent again as it is.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use parking_lot::Mutex;
use waypoint_config::model::balance::{Draw, choose};
use waypoint_config::model::cluster::circuit_breakers::Resource;
use waypoint_config::model::cluster::upstream_protocol::UpstreamProtocol;
use waypoint_config::model::cluster::{Cluster, ClusterSlot};
use waypoint_config::model::endpoint::Endpoint;
use waypoint_config::model::route::retry_policy::RetryPolicy;
use waypoint_filters::service::Response;
use waypoint_filters::service::body::Body;
use waypoint_filters::stream::connection::BindKey;
use waypoint_filters::stream::peer::Peer;
use waypoint_filters::stream::response_flags::ResponseFlags;
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo, UpstreamInfo};

use crate::router::deadline::{Deadline, TimeLimits};
use crate::router::replay::Replay;
use crate::router::retry::{self, Backoff};
use crate::upstream::agreed_upgrade::Upgrade;
use crate::upstream::agreed_upgrade::agreed;
use crate::upstream::body::{ActiveRequest, Lease, LeasedConnection, upstream_body};
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::expectation::Waiting;
use crate::upstream::h1::H1Connection;
use crate::upstream::held_body::Hold;
use crate::upstream::limits::Limits;
use crate::upstream::message_form::{
    has_two_lengths, is_unasked, say_how_it_is_framed, to_http1, to_http2,
};
use crate::upstream::original_dst::OriginalDestinations;
use crate::upstream::pools::{HostPools, Upstreams};
use crate::upstream::read_ahead::reading_ahead;
use crate::upstream::timed_body::time_sending;

/// Pooled connections that turn out closed before anything was sent are replaced this often.
const MAX_STALE: u32 = 8;

/// Looks up the workload at an address.
pub(crate) type PeerLookup = Arc<dyn Fn(std::net::IpAddr) -> Option<Arc<Peer>> + Send + Sync>;

/// What attempts need of the process.
pub(crate) struct Reach {
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) original: Arc<OriginalDestinations>,
    pub(crate) peer: PeerLookup,
    /// Under which a connection keeps the endpoint that its destination names.
    pub(crate) key: BindKey,
}

/// A request on its way to a cluster: what every attempt needs.
pub(crate) struct Attempting<'a> {
    pub(crate) router: &'a Reach,
    pub(crate) stream: &'a Arc<StreamInfo>,
    pub(crate) slot: &'a Arc<ClusterSlot>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) limits: Option<Limits>,
    pub(crate) retry: Option<&'a RetryPolicy>,
    pub(crate) times: TimeLimits,
    /// Since when the last attempt has its connection, where its time is limited.
    pub(crate) connected: Mutex<Option<Instant>>,
    pub(crate) grpc: bool,
}

/// A request that was sent, for another attempt.
struct Kept {
    head: http::Request<()>,
    body: Option<Replay>,
}

impl Kept {
    /// `None`: its body can't be sent again.
    fn request(self) -> Option<http::Request<Body>> {
        let body = match self.body {
            None => Body::empty(),
            Some(replay) => replay.again()?,
        };
        Some(self.head.map(|()| body))
    }
}

impl Attempting<'_> {
    /// Attempts until there is an answer to give, good or bad.
    pub(crate) async fn run(
        &self,
        request: http::Request<Body>,
    ) -> Result<Response, UpstreamError> {
        let mut request = request;
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut backoff = Backoff::new(self.retry);
        let mut retries = self.retry.map_or(0, |policy| policy.num_retries);
        let mut retrying = None;
        let mut attempted = false;
        loop {
            self.stream.state().attempts += 1;
            let kept = self.keep(&mut request, retries);
            self.times.tell(request.headers_mut(), || {
                // The first attempt has it all.
                let end = self.stream.request_end().filter(|_| attempted);
                end.map(|end| end.elapsed()).unwrap_or_default()
            });
            attempted = true;
            let outcome = self.attempt_in_time(request, &mut tried).await;
            let again = match &outcome {
                Ok(response) => retry::on_response(self.retry, response, self.grpc),
                Err(error) => retry::on_error(self.retry, error.kind),
            };
            drop(retrying.take());
            if !again || retries == 0 {
                return outcome;
            }
            if let Some(limits) = &self.limits {
                let Ok(permit) = limits.take(Resource::Retries) else {
                    let mut state = self.stream.state();
                    state.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
                    return outcome;
                };
                retrying = Some(permit);
            }
            request = match (outcome, kept) {
                (
                    Err(UpstreamError {
                        unsent: Some(unsent),
                        ..
                    }),
                    _,
                ) => *unsent,
                (outcome, Some(kept)) => match kept.request() {
                    Some(request) => request,
                    None => return outcome,
                },
                (outcome, None) => return outcome,
            };
            retries -= 1;
            if let Some(pause) = backoff.next(fastrand::f64()) {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// What another attempt needs, where the policy may want one after the request was sent.
    fn keep(&self, request: &mut http::Request<Body>, retries: u32) -> Option<Kept> {
        let policy = self.retry?;
        if retries == 0
            || !retry::may_follow_sending(policy, self.protocol(), self.grpc)
            || request.extensions().get::<Upgrade>().is_some()
        {
            return None;
        }
        let mut head = http::Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        if let Some(waiting) = request.extensions().get::<Waiting>() {
            head.extensions_mut().insert(waiting.clone());
        }
        let body = if request.body().is_empty() {
            None
        } else {
            let (replay, first) = Replay::split(std::mem::take(request.body_mut()));
            *request.body_mut() = first;
            Some(replay)
        };
        Some(Kept { head, body })
    }

    fn protocol(&self) -> UpstreamProtocol {
        match self.cluster.protocol {
            UpstreamProtocol::Downstream if self.stream.protocol == Protocol::Http2 => {
                UpstreamProtocol::Http2
            }
            UpstreamProtocol::Downstream => UpstreamProtocol::Http1,
            protocol => protocol,
        }
    }

    async fn attempt_in_time(
        &self,
        request: http::Request<Body>,
        tried: &mut Vec<SocketAddr>,
    ) -> Result<Response, UpstreamError> {
        // An upgrade's request doesn't end, and no clock starts.
        let upgrade = request.extensions().get::<Upgrade>().is_some();
        if let Some(mut times) = self.stream.upstream_times() {
            times.attempt(request.body().is_empty());
        }
        let attempt = pin!(self.attempt(request, tried));
        let Some(limit) = self.times.attempt.filter(|_| !upgrade) else {
            return self.noted(attempt.await);
        };
        *self.connected.lock() = None;
        // The later of the two: the request is there, and so is a connection.
        let started = || Some((*self.connected.lock())?.max(self.stream.request_end()?));
        let outcome = Deadline::new(limit).before(started, attempt).await;
        let late = || Err(UpstreamError::new(UpstreamErrorKind::PerTryTimeout));
        self.noted(outcome.unwrap_or_else(late))
    }

    /// An attempt's outcome, of which recorders may want the time.
    fn noted(&self, outcome: Result<Response, UpstreamError>) -> Result<Response, UpstreamError> {
        if let Some(mut times) = self.stream.upstream_times() {
            match &outcome {
                Ok(_) => times.answered(),
                Err(_) => times.failed(),
            }
        }
        outcome
    }

    async fn attempt(
        &self,
        request: http::Request<Body>,
        tried: &mut Vec<SocketAddr>,
    ) -> Result<Response, UpstreamError> {
        let Some(endpoint) = self.endpoint(tried) else {
            return Err(
                UpstreamError::new(UpstreamErrorKind::NoHealthyUpstream).with_unsent(Some(request))
            );
        };
        if self.retry.is_some() {
            tried.push(endpoint.address);
        }
        let active = ActiveRequest::new(&endpoint.state);
        let pools = self.router.upstreams.pools_of(&self.cluster, &endpoint);
        if request.extensions().get::<Upgrade>().is_some() {
            return self.upgrade(request, &endpoint, pools, active).await;
        }
        match self.protocol() {
            UpstreamProtocol::Http2 => self.send_h2(request, &endpoint, &pools, active).await,
            _ => self.send_h1(request, &endpoint, pools, active).await,
        }
    }

    fn endpoint(&self, tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        let connection = &self.stream.connection;
        if !self.cluster.discovery.lists_endpoints() {
            // The same for all requests of the connection: asked of the table once.
            let found = connection.bound(self.router.key, || {
                let address = connection.destination;
                self.router
                    .original
                    .endpoint(&self.cluster, address, |a| (self.router.peer)(a.ip()))
            });
            return (*found).clone();
        }
        let attempts = self
            .retry
            .filter(|policy| policy.previous_hosts)
            .map_or(0, |policy| policy.host_selection_attempts);
        let endpoints = self.slot.endpoints();
        let draw = Draw {
            random: || fastrand::u64(..),
            tried,
            attempts,
        };
        choose(self.cluster.balancing, &endpoints, draw)
    }

    async fn send_h1(
        &self,
        request: http::Request<Body>,
        endpoint: &Endpoint,
        pools: Arc<HostPools>,
        mut active: ActiveRequest,
    ) -> Result<Response, UpstreamError> {
        let mut request = request;
        *request.version_mut() = http::Version::HTTP_11;
        say_how_it_is_framed(&mut request);
        let mut stale = 0;
        loop {
            let connected = {
                let connecting = pin!(self.connected_h1(endpoint, &pools, &mut active));
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
                        active: Some(active),
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
        if self.times.route.is_some() {
            reading_ahead(body, connecting).await
        } else {
            connecting.await
        }
    }

    /// A connection for one more request, if the cluster may have one more.
    async fn connected_h1(
        &self,
        endpoint: &Endpoint,
        pools: &HostPools,
        active: &mut ActiveRequest,
    ) -> Result<Box<H1Connection>, UpstreamError> {
        let limits = self.limits.as_ref();
        let upstreams = &self.router.upstreams;
        let connection = upstreams.h1(pools, &self.cluster, endpoint, limits).await?;
        if let Err(overflow) = active.admit(limits) {
            pools.h1.put(connection, Instant::now());
            return Err(overflow);
        }
        connection.count_bytes(self.stream);
        self.note(&connection.info, Protocol::Http11);
        Ok(connection)
    }

    async fn send_h2(
        &self,
        mut request: http::Request<Body>,
        endpoint: &Endpoint,
        pools: &HostPools,
        mut active: ActiveRequest,
    ) -> Result<Response, UpstreamError> {
        let limits = self.limits.as_ref();
        to_http2(&mut request);
        let upstreams = &self.router.upstreams;
        let connected = {
            let connecting = pin!(upstreams.h2(pools, &self.cluster, endpoint, limits));
            self.waiting(request.body_mut(), connecting).await
        };
        let (mut connection, stream) = match connected {
            Ok(found) => found,
            Err(error) => return Err(error.with_unsent(Some(to_http1(request)))),
        };
        active.admit(limits)?;
        time_sending(request.body_mut(), self.stream);
        self.note(&connection.info, Protocol::Http2);
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
            active: Some(active),
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
        endpoint: &Endpoint,
        pools: Arc<HostPools>,
        mut active: ActiveRequest,
    ) -> Result<Response, UpstreamError> {
        let downstream = hyper::upgrade::on(&mut request);
        let mut connection = if self.limits.is_some() {
            // In turn with the others, as connections are counted.
            self.connected_h1(endpoint, &pools, &mut active).await?
        } else {
            let upstreams = &self.router.upstreams;
            let connection = upstreams.h1_unpooled(&self.cluster, endpoint).await?;
            self.note(&connection.info, Protocol::Http11);
            connection
        };
        connection.detach_for_upgrade();
        let response = connection.send(request).await?;
        if has_two_lengths(&response) {
            return Err(UpstreamError::new(UpstreamErrorKind::Protocol));
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(agreed(response, downstream, active));
        }
        let (parts, incoming) = response.into_parts();
        let lease = Lease {
            active: Some(active),
            connection: LeasedConnection::Http1 {
                connection: Some(connection),
                pools,
            },
        };
        let body = upstream_body(incoming, lease).await;
        Ok(Response::from_parts(parts, body))
    }

    fn note(&self, upstream: &Arc<UpstreamInfo>, protocol: Protocol) {
        let mut state = self.stream.state();
        state.upstream_protocol = Some(protocol);
        // A connection that had gone stale is of the same attempt.
        if let Some(before) = state.upstream.replace(upstream.clone())
            && state.earlier_upstreams.len() + 1 < state.attempts as usize
        {
            state.earlier_upstreams.push(before);
        }
        if state.keep_tls
            && let Some(tls) = &upstream.tls
        {
            let _ = tls.session();
        }
        drop(state);
        if let Some(mut times) = self.stream.upstream_times() {
            times.connected();
        }
        if self.times.attempt.is_some() {
            *self.connected.lock() = Some(Instant::now());
        }
    }
}
