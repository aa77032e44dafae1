//! The one way to an upstream: an endpoint is chosen, a connection to it is taken or made, and what is under way is counted.
//!
//! Requests, upgrades, TCP streams and callouts all go by it. What failed comes back as an [`UpstreamError`]; whether
//! there is a further attempt is for those to say who make them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;
use waypoint_config::model::balance::previous_priorities::PreviousPriorities;
use waypoint_config::model::balance::{Draw, choose};
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::circuit_breakers::Resource;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::cluster::upstream_protocol::UpstreamProtocol;
use waypoint_config::model::endpoint::Endpoint;
use waypoint_config::model::header_case::HeaderCase;
use waypoint_config::model::outlier::Outcome;
use waypoint_filters::stream::connection::BindKey;
use waypoint_filters::stream::peer::Peer;
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo, StreamState, UpstreamInfo};

use crate::upstream::body::ActiveRequest;
use crate::upstream::connection::h1::H1Connection;
use crate::upstream::connection::h2::{H2Connection, H2Stream};
use crate::upstream::dial::leg::{Leg, Speaks};
use crate::upstream::dial::{Dialled, not_connected};
use crate::upstream::dynamic::DynamicHosts;
use crate::upstream::dynamic::host::DynamicHost;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::judge::Judge;
use crate::upstream::limits::place::Place;
use crate::upstream::limits::{Limits, Permit};
use crate::upstream::original_dst::OriginalDestinations;
use crate::upstream::pools::{HostPools, Upstreams};

/// Looks up the workload at an address.
pub(crate) type PeerLookup = Arc<dyn Fn(IpAddr) -> Option<Arc<Peer>> + Send + Sync>;

/// What it takes of the process; one for all.
pub(crate) struct Reach {
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) original: OriginalDestinations,
    pub(crate) dynamic: DynamicHosts,
    pub(crate) peer: PeerLookup,
    /// Told when an endpoint may be an outlier.
    pub(crate) suspects: Arc<Notify>,
    /// Under which a connection keeps the endpoint that its destination names.
    key: BindKey,
}

impl Reach {
    pub(crate) fn new(upstreams: Arc<Upstreams>, dynamic: DynamicHosts, peer: PeerLookup) -> Reach {
        Reach {
            upstreams,
            dynamic,
            original: OriginalDestinations::default(),
            peer,
            suspects: Arc::default(),
            key: BindKey::unique(),
        }
    }
}

/// The way of one stream to its cluster, as that is when the stream begins.
pub(crate) struct ToCluster<'a> {
    reach: &'a Reach,
    pub(crate) stream: &'a Arc<StreamInfo>,
    pub(crate) slot: &'a ClusterSlot,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) limits: Option<Limits>,
    pub(crate) clock: AttemptClock,
    /// What the choice follows, where the cluster balances by hashes.
    hash: Option<u64>,
    /// The host that the stream named, where the cluster leads to such.
    host: Option<Arc<DynamicHost>>,
    /// Of the endpoint that was chosen last, until it has answered.
    awaited: Mutex<Option<Arc<Judge>>>,
}

/// What time limits need to know of an attempt.
#[derive(Default)]
pub(crate) struct AttemptClock {
    /// Whether it is kept.
    attempt_is_limited: bool,
    /// Whether the end of the request counts: a body is read while its connection is waited for, then.
    pub(crate) request_is_limited: bool,
    /// Since when the last attempt has its connection.
    connected: Mutex<Option<Instant>>,
}

impl AttemptClock {
    pub(crate) fn new(attempt_is_limited: bool, request_is_limited: bool) -> AttemptClock {
        AttemptClock {
            attempt_is_limited,
            request_is_limited,
            connected: Mutex::default(),
        }
    }

    /// Since when the attempt has its connection; `None`: it has none yet.
    pub(crate) fn connected(&self) -> Option<Instant> {
        *self.connected.lock()
    }

    /// The next attempt begins.
    pub(crate) fn reset(&self) {
        *self.connected.lock() = None;
    }
}

/// An endpoint that was chosen, for as long as it counts as busy with the stream.
pub(crate) struct Chosen {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) active: ActiveRequest,
    /// Where outliers are detected.
    pub(crate) judge: Option<Arc<Judge>>,
}

impl Chosen {
    fn tell(&self, outcome: Outcome) {
        if let Some(judge) = &self.judge {
            judge.tell(outcome);
        }
    }
}

/// What a connection outside of pools counts against the cluster's limits, while it is made.
pub(crate) struct Counted {
    place: Option<Place>,
    _pending: Option<Permit>,
}

impl<'a> ToCluster<'a> {
    pub(crate) fn new(
        reach: &'a Reach,
        stream: &'a Arc<StreamInfo>,
        slot: &'a ClusterSlot,
        cluster: Arc<Cluster>,
        clock: AttemptClock,
    ) -> ToCluster<'a> {
        ToCluster {
            limits: Limits::of(slot, &cluster),
            reach,
            stream,
            slot,
            cluster,
            clock,
            hash: None,
            host: None,
            awaited: Mutex::default(),
        }
    }

    /// With a key that leads to the same endpoint every time.
    pub(crate) fn by_hash(self, hash: Option<u64>) -> ToCluster<'a> {
        ToCluster { hash, ..self }
    }

    /// To the host that the stream named.
    pub(crate) fn for_host(self, host: Option<Arc<DynamicHost>>) -> ToCluster<'a> {
        ToCluster { host, ..self }
    }

    /// What is spoken with the cluster's endpoints.
    pub(crate) fn protocol(&self) -> UpstreamProtocol {
        match self.cluster.protocol {
            UpstreamProtocol::Downstream if self.stream.protocol == Protocol::Http2 => {
                UpstreamProtocol::Http2
            }
            UpstreamProtocol::Downstream => UpstreamProtocol::Http1,
            protocol => protocol,
        }
    }

    /// Whether names of headers keep their case on the way there and back.
    pub(crate) fn keeps_header_case(&self) -> bool {
        self.cluster.header_case == HeaderCase::Preserved
    }

    /// Whether trailers pass over HTTP/1.
    pub(crate) fn passes_http1_trailers(&self) -> bool {
        self.cluster.http1_trailers
    }

    /// Chooses an endpoint, for up to `attempts` further choices none of those that were `tried`. `None`: there is no
    /// healthy one (`UH`).
    pub(crate) fn choose(&self, tried: &[SocketAddr], attempts: u32) -> Option<Chosen> {
        self.choose_elsewhere(tried, attempts, None)
    }

    /// As [`choose`](ToCluster::choose), where priorities that were tried are left out, after each so many attempts.
    pub(crate) fn choose_elsewhere(
        &self,
        tried: &[SocketAddr],
        attempts: u32,
        previous: Option<(&mut PreviousPriorities, usize)>,
    ) -> Option<Chosen> {
        let endpoint = if self.cluster.discovery.lists_endpoints() {
            let endpoints = self.slot.endpoints();
            let left_out = match previous {
                None => &[],
                Some((previous, frequency)) => {
                    previous.left_out(endpoints.hosts(), tried, frequency)
                }
            };
            let draw = Draw {
                random: || fastrand::u64(..),
                hash: self.hash,
                now: self.cluster.balancing.slow_start.map(|_| Instant::now()),
                tried,
                attempts,
                left_out,
            };
            choose(self.cluster.balancing, &endpoints, draw)?
        } else if let Some(host) = &self.host {
            host.endpoint().filter(|endpoint| endpoint.is_healthy())?
        } else {
            self.original_destination()?
        };
        Some(self.chosen(endpoint))
    }

    /// The endpoint is to get the stream.
    pub(crate) fn chosen(&self, endpoint: Arc<Endpoint>) -> Chosen {
        let judge = self.judge(&endpoint);
        if judge.is_some() {
            *self.awaited.lock() = judge.clone();
        }
        Chosen {
            active: ActiveRequest::new(&endpoint.state),
            judge,
            endpoint,
        }
    }

    /// Who keeps the endpoint's record.
    fn judge(&self, endpoint: &Endpoint) -> Option<Arc<Judge>> {
        let rules = self.cluster.outlier_detection.as_ref()?;
        let is_listed = self.cluster.discovery.lists_endpoints();
        (is_listed || self.host.is_some()).then(|| {
            Arc::new(Judge {
                endpoint: endpoint.state.clone(),
                rules: rules.clone(),
                outliers: self.slot.outliers.clone(),
                suspects: self.reach.suspects.clone(),
            })
        })
    }

    /// The endpoint that was chosen last has answered, or failed.
    pub(crate) fn no_longer_awaited(&self) {
        self.awaited.lock().take();
    }

    /// There is no more time for the answer of the endpoint that was chosen last.
    pub(crate) fn timed_out(&self) {
        if let Some(judge) = self.awaited.lock().take() {
            judge.tell(Outcome::TimedOut);
        }
    }

    fn original_destination(&self) -> Option<Arc<Endpoint>> {
        let connection = &self.stream.connection;
        if connection.destination.ip().is_unspecified() {
            // A callout's.
            return None;
        }
        let find = || {
            let peer = |address: SocketAddr| (self.reach.peer)(address.ip());
            let original = &self.reach.original;
            original.endpoint(&self.cluster, connection.destination, peer)
        };
        if self.stream.protocol == Protocol::Tcp {
            return find();
        }
        // The same for all requests of the connection: asked of the table once.
        (*connection.bound(self.reach.key, find)).clone()
    }

    /// The pools of the endpoint, for a request to this host.
    pub(crate) fn pools(&self, endpoint: &Endpoint, host: Option<&str>) -> Arc<HostPools> {
        let leg = self.leg(endpoint, host);
        self.reach.upstreams.pools_of(&self.cluster, endpoint, leg)
    }

    fn leg(&self, endpoint: &Endpoint, host: Option<&str>) -> Leg {
        let socket = self.cluster.sockets.of(&endpoint.metadata);
        let connection = &self.stream.connection;
        let client = (connection.source, connection.destination);
        Leg::of(&self.cluster, socket, client, host)
    }

    /// What is spoken with the endpoint, once that is known.
    pub(crate) async fn spoken(
        &self,
        chosen: &Chosen,
        pools: &HostPools,
    ) -> Result<UpstreamProtocol, UpstreamError> {
        let (upstreams, limits) = (&self.reach.upstreams, self.limits.as_ref());
        let asking = upstreams.negotiated(pools, &self.cluster, &chosen.endpoint, limits);
        asking.await.inspect_err(|error| self.failed(chosen, error))
    }

    /// A connection for one more HTTP/1.1 request, if the cluster may have one more.
    pub(crate) async fn h1(
        &self,
        chosen: &mut Chosen,
        pools: &HostPools,
    ) -> Result<Box<H1Connection>, UpstreamError> {
        let limits = self.limits.as_ref();
        let upstreams = &self.reach.upstreams;
        let connection = upstreams
            .h1(pools, &self.cluster, &chosen.endpoint, limits)
            .await
            .inspect_err(|error| self.failed(chosen, error))?;
        if let Err(overflow) = chosen.active.admit(limits) {
            pools.h1.put(connection, Instant::now());
            return Err(overflow);
        }
        connection.carry(self.stream);
        chosen.tell(Outcome::Connected);
        self.connected(&connection.info, Some(Protocol::Http11));
        Ok(connection)
    }

    /// An HTTP/1.1 connection that doesn't come back to the pools.
    pub(crate) async fn h1_for_upgrade(
        &self,
        chosen: &mut Chosen,
        pools: &HostPools,
    ) -> Result<Box<H1Connection>, UpstreamError> {
        if self.limits.is_some() {
            // In turn with the others, as connections are counted.
            return self.h1(chosen, pools).await;
        }
        let upstreams = &self.reach.upstreams;
        let connecting = upstreams.h1_unpooled(pools, &self.cluster, &chosen.endpoint);
        let connection = connecting.await;
        let connection = connection.inspect_err(|error| self.failed(chosen, error))?;
        connection.hold_for(self.stream);
        chosen.tell(Outcome::Connected);
        self.connected(&connection.info, Some(Protocol::Http11));
        Ok(connection)
    }

    /// A stream of an HTTP/2 connection. Its request isn't counted yet ([`h2_admitted`](ToCluster::h2_admitted)).
    pub(crate) async fn h2(
        &self,
        chosen: &Chosen,
        pools: &HostPools,
    ) -> Result<(H2Connection, H2Stream), UpstreamError> {
        let limits = self.limits.as_ref();
        let upstreams = &self.reach.upstreams;
        upstreams
            .h2(pools, &self.cluster, &chosen.endpoint, limits)
            .await
            .inspect_err(|error| self.failed(chosen, error))
    }

    /// Counts the request that is to go on `connection`, if the cluster may have one more.
    pub(crate) fn h2_admitted(
        &self,
        chosen: &mut Chosen,
        connection: &H2Connection,
    ) -> Result<(), UpstreamError> {
        chosen.active.admit(self.limits.as_ref())?;
        chosen.tell(Outcome::Connected);
        self.connected(&connection.info, Some(Protocol::Http2));
        Ok(())
    }

    /// What a connection of the stream's own counts; the error is an overflow.
    pub(crate) fn count_connection(&self) -> Result<Counted, UpstreamError> {
        let Some(limits) = &self.limits else {
            return Ok(Counted {
                place: None,
                _pending: None,
            });
        };
        let permit = limits.take(Resource::Connections)?;
        let pending = limits.take(Resource::PendingRequests)?;
        Ok(Counted {
            place: Some(Place::alone(permit, limits)),
            _pending: Some(pending),
        })
    }

    /// A connection of the stream's own, for bytes.
    pub(crate) async fn tcp(
        &self,
        chosen: &Chosen,
        counted: Counted,
    ) -> Result<Dialled, UpstreamError> {
        let connector = &self.reach.upstreams.connector;
        let leg = self.leg(&chosen.endpoint, None);
        let waiting = connector.open.wait(&self.cluster.name);
        let connecting = connector.connect(&self.cluster, &chosen.endpoint, &leg, Speaks::Bytes);
        let dialled = connecting.await;
        drop(waiting);
        if let (Err(error), Some(judge)) = (&dialled, &chosen.judge) {
            judge.failed(error.kind);
        }
        let mut dialled = dialled.inspect_err(|error| self.failed(chosen, error))?;
        chosen.tell(Outcome::Carrying);
        dialled.io.place = counted.place;
        self.connected(&dialled.info, None);
        Ok(dialled)
    }

    /// Has the stream know whom it didn't reach.
    fn failed(&self, chosen: &Chosen, error: &UpstreamError) {
        use UpstreamErrorKind::{Connect, ConnectTimeout};
        if matches!(error.kind, Connect | ConnectTimeout) {
            let upstream = not_connected(&self.cluster, &chosen.endpoint);
            tried(&mut self.stream.state(), Arc::new(upstream));
        }
    }

    /// Has the stream know its upstream, and what recorders want to know of the connection.
    fn connected(&self, upstream: &Arc<UpstreamInfo>, protocol: Option<Protocol>) {
        let mut state = self.stream.state();
        state.upstream_protocol = protocol;
        tried(&mut state, upstream.clone());
        if state.keep_tls
            && let Some(tls) = &upstream.tls
        {
            let _ = tls.session();
        }
        drop(state);
        if let Some(mut times) = self.stream.upstream_times() {
            times.connected();
        }
        if self.clock.attempt_is_limited {
            *self.clock.connected.lock() = Some(Instant::now());
        }
    }
}

/// Keeps the upstream of an attempt.
fn tried(state: &mut StreamState, upstream: Arc<UpstreamInfo>) {
    // A connection that had gone stale is of the same attempt.
    if let Some(before) = state.upstream.replace(upstream)
        && state.earlier_upstreams.len() + 1 < state.attempts as usize
    {
        state.earlier_upstreams.push(before);
    }
}
