//! The one way to an upstream: an endpoint is chosen, a connection to it is taken or made, and what is under way is counted.
//!
//! Requests, upgrades, TCP streams and callouts all go by it. What failed comes back as an [`UpstreamError`]; whether
//! there is a further attempt is for those to say who make them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use waypoint_config::model::balance::{Draw, choose};
use waypoint_config::model::cluster::circuit_breakers::Resource;
use waypoint_config::model::cluster::upstream_protocol::UpstreamProtocol;
use waypoint_config::model::cluster::{Cluster, ClusterSlot};
use waypoint_config::model::endpoint::Endpoint;
use waypoint_filters::stream::connection::BindKey;
use waypoint_filters::stream::peer::Peer;
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo, UpstreamInfo};

use crate::upstream::body::ActiveRequest;
use crate::upstream::dial::Dialled;
use crate::upstream::error::UpstreamError;
use crate::upstream::h1::H1Connection;
use crate::upstream::h2::{H2Connection, H2Stream};
use crate::upstream::limits::{Limits, Permit};
use crate::upstream::original_dst::OriginalDestinations;
use crate::upstream::place::Place;
use crate::upstream::pools::{HostPools, Upstreams};

/// Looks up the workload at an address.
pub(crate) type PeerLookup = Arc<dyn Fn(IpAddr) -> Option<Arc<Peer>> + Send + Sync>;

/// What it takes of the process; one for all.
pub(crate) struct Reach {
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) original: OriginalDestinations,
    pub(crate) peer: PeerLookup,
    /// Under which a connection keeps the endpoint that its destination names.
    key: BindKey,
}

impl Reach {
    pub(crate) fn new(upstreams: Arc<Upstreams>, peer: PeerLookup) -> Reach {
        Reach {
            upstreams,
            original: OriginalDestinations::default(),
            peer,
            key: BindKey::unique(),
        }
    }
}

/// The way of one stream to its cluster, as that is when the stream begins.
pub(crate) struct ToCluster<'a> {
    reach: &'a Reach,
    pub(crate) stream: &'a Arc<StreamInfo>,
    slot: &'a ClusterSlot,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) limits: Option<Limits>,
    pub(crate) clock: AttemptClock,
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
        }
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

    /// Chooses an endpoint, for up to `attempts` further choices none of those that were `tried`. `None`: there is no
    /// healthy one (`UH`).
    pub(crate) fn choose(&self, tried: &[SocketAddr], attempts: u32) -> Option<Chosen> {
        let endpoint = if self.cluster.discovery.lists_endpoints() {
            let endpoints = self.slot.endpoints();
            let draw = Draw {
                random: || fastrand::u64(..),
                tried,
                attempts,
            };
            choose(self.cluster.balancing, &endpoints, draw)?
        } else {
            self.original_destination()?
        };
        Some(Chosen {
            active: ActiveRequest::new(&endpoint.state),
            endpoint,
        })
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

    /// The pools of the endpoint.
    pub(crate) fn pools(&self, endpoint: &Endpoint) -> Arc<HostPools> {
        self.reach.upstreams.pools_of(&self.cluster, endpoint)
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
            .await?;
        if let Err(overflow) = chosen.active.admit(limits) {
            pools.h1.put(connection, Instant::now());
            return Err(overflow);
        }
        connection.count_bytes(self.stream);
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
        let connecting = upstreams.h1_unpooled(&self.cluster, &chosen.endpoint);
        let connection = connecting.await?;
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
    }

    /// Counts the request that is to go on `connection`, if the cluster may have one more.
    pub(crate) fn h2_admitted(
        &self,
        chosen: &mut Chosen,
        connection: &H2Connection,
    ) -> Result<(), UpstreamError> {
        chosen.active.admit(self.limits.as_ref())?;
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
        let mut dialled = connector.connect(&self.cluster, &chosen.endpoint).await?;
        dialled.io.place = counted.place;
        self.connected(&dialled.info, None);
        Ok(dialled)
    }

    /// Has the stream know its upstream, and what recorders want to know of the connection.
    fn connected(&self, upstream: &Arc<UpstreamInfo>, protocol: Option<Protocol>) {
        let mut state = self.stream.state();
        state.upstream_protocol = protocol;
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
        if self.clock.attempt_is_limited {
            *self.clock.connected.lock() = Some(Instant::now());
        }
    }
}
