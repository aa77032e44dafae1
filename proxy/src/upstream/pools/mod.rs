//! The connections that are kept for an endpoint, and the sweep that closes what is not used.
//!
//! Pools hang on [`EndpointState`]: they live as long as the endpoint does, and an endpoint that is
//! removed closes its idle connections. A connection made under an earlier own certificate is not used
//! again. Mutexes are held for a push or a pop only.

pub(crate) mod agreed_http;
pub(crate) mod h1_pool;
pub(crate) mod lifetimes;
pub(crate) mod negotiation;

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::circuit_breakers::Resource;
use waypoint_config::model::cluster::upstream_tls::UpstreamTls;
use waypoint_config::model::endpoint::{Endpoint, EndpointState, Transport};
use waypoint_hbone::pool::TunnelPool;
use waypoint_hbone::tls::Tls;

use crate::overload::Overload;
use crate::process::open_files::OpenFiles;
use crate::upstream::connection::h1::H1Connection;
use crate::upstream::connection::h2::{H2Connection, H2Stream};
use crate::upstream::dial::client_tls::ClientTls;
use crate::upstream::dial::leg::{Leg, Speaks};
use crate::upstream::dial::{Connector, Dialled};
use crate::upstream::error::UpstreamError;
use crate::upstream::limits::Limits;
use crate::upstream::limits::open::OpenConnections;
use crate::upstream::limits::place::Place;
use crate::upstream::pools::agreed_http::Agreed;
use crate::upstream::pools::h1_pool::{Granted, H1Pool};
use crate::upstream::pools::lifetimes::{IdleLimits, Lifetimes};

/// HTTP/2 connections opened at the same time to one endpoint.
const CONCURRENT_DIALS: u32 = 2;

/// The connections of one endpoint.
pub(crate) struct HostPools {
    pub(crate) h1: Arc<H1Pool>,
    h2: Mutex<Vec<H2Connection>>,
    dials: Semaphore,
    /// Told when a stream ends, where their number is the cluster's to say.
    freed: Arc<Notify>,
    lifetimes: Lifetimes,
    /// Whether connections depend on our certificate.
    tunnelled: bool,
    /// What they are made for, beside the endpoint.
    pub(crate) leg: Leg,
    /// Where that is found out.
    pub(crate) agreed: Agreed,
    pub(crate) asking: Semaphore,
}

/// The pools of one endpoint.
struct EndpointPools {
    /// Of nearly all: connections are the same for everybody.
    one: Arc<HostPools>,
    /// Of hosts that TLS is to name.
    by_host: Mutex<HashMap<Arc<str>, Arc<HostPools>>>,
}

/// Hosts that have connections of their own, of one endpoint; past it the table is emptied, which costs pools only.
const MAX_HOSTS: usize = 256;

/// What pools need of the process: the way out, the certificate's generation, and the list for the sweep.
pub(crate) struct Upstreams {
    pub(crate) connector: Connector,
    tls: Tls,
    pools: Mutex<Vec<Weak<HostPools>>>,
}

impl Upstreams {
    pub(crate) fn new(
        tunnels: TunnelPool,
        tls: Tls,
        files: Arc<OpenFiles>,
        overload: Arc<Overload>,
        client_tls: ClientTls,
    ) -> Upstreams {
        let sizes = overload.sizes;
        Upstreams {
            connector: Connector {
                tunnels,
                files,
                overload,
                open: OpenConnections::new(sizes.upstream, sizes.upstream_per_cluster),
                tls: client_tls,
            },
            tls,
            pools: Mutex::default(),
        }
    }

    /// The own certificate's.
    pub(crate) fn generation(&self) -> u64 {
        self.tls.generation()
    }

    /// Whether there is an own certificate.
    pub(crate) fn has_certificate(&self) -> bool {
        self.tls.ready()
    }

    /// The pools of `endpoint` for streams with this leg, made on their first use.
    pub(crate) fn pools_of(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        leg: Leg,
    ) -> Arc<HostPools> {
        let state: &EndpointState = &endpoint.state;
        let pools = state.pools.get_or_init(|| {
            Box::new(EndpointPools {
                one: self.listed(endpoint, Leg::default()),
                by_host: Mutex::default(),
            })
        });
        let pools = match pools.downcast_ref::<EndpointPools>() {
            // What the endpoint is told of one client is not true of another.
            Some(_) if leg.client.is_some() => return Arc::new(HostPools::new(endpoint, leg)),
            Some(pools) => match &leg.host {
                None => pools.one.clone(),
                Some(host) => {
                    let mut by_host = pools.by_host.lock();
                    if by_host.len() >= MAX_HOSTS && !by_host.contains_key(host) {
                        by_host.clear();
                    }
                    let made = by_host.entry(host.clone());
                    made.or_insert_with(|| self.listed(endpoint, leg)).clone()
                }
            },
            // Nobody else fills the cell; pools of its own keep the request going all the same.
            None => Arc::new(HostPools::new(endpoint, leg)),
        };
        pools.lifetimes.follow(cluster);
        pools
    }

    /// Pools that are swept.
    fn listed(&self, endpoint: &Endpoint, leg: Leg) -> Arc<HostPools> {
        let pools = Arc::new(HostPools::new(endpoint, leg));
        self.pools.lock().push(Arc::downgrade(&pools));
        pools
    }

    /// A free HTTP/1.1 connection, pooled or new. `pooled` tells which: a pooled one may turn out closed.
    pub(crate) async fn h1(
        &self,
        pools: &HostPools,
        cluster: &Cluster,
        endpoint: &Endpoint,
        limits: Option<&Limits>,
    ) -> Result<Box<H1Connection>, UpstreamError> {
        while let Some(mut connection) = pools.h1.pop() {
            if self.usable(pools, &mut connection, cluster, endpoint).await {
                return Ok(connection);
            }
        }
        // Seldom, and large.
        Box::pin(self.new_h1(pools, cluster, endpoint, limits)).await
    }

    /// As [`h1`](Upstreams::h1), where none is free.
    async fn new_h1(
        &self,
        pools: &HostPools,
        cluster: &Cluster,
        endpoint: &Endpoint,
        limits: Option<&Limits>,
    ) -> Result<Box<H1Connection>, UpstreamError> {
        let Some(limits) = limits else {
            return self.h1_unpooled(pools, cluster, endpoint).await;
        };
        let _pending = limits.take(Resource::PendingRequests)?;
        let _waiting = self.connector.open.wait(&cluster.name);
        loop {
            match pools.h1.wait(limits).await? {
                Granted::Connection(mut connection) => {
                    if self.usable(pools, &mut connection, cluster, endpoint).await {
                        return Ok(connection);
                    }
                }
                Granted::Place(place) => {
                    let generation = self.tls.generation();
                    let mut dialled = self
                        .dial(pools, cluster, endpoint, Speaks::Http1)
                        .await
                        .inspect_err(|error| pools.h1.fail(error))?;
                    dialled.io.place = Some(place);
                    return H1Connection::handshake(dialled, cluster.header_case, generation).await;
                }
                Granted::Failed(kind, reason) => {
                    let mut error = UpstreamError::new(kind);
                    error.reason = reason;
                    return Err(error);
                }
            }
        }
    }

    /// A new HTTP/1.1 connection, which counts against no limit.
    pub(crate) async fn h1_unpooled(
        &self,
        pools: &HostPools,
        cluster: &Cluster,
        endpoint: &Endpoint,
    ) -> Result<Box<H1Connection>, UpstreamError> {
        let _waiting = self.connector.open.wait(&cluster.name);
        let generation = self.tls.generation();
        let dialled = self.dial(pools, cluster, endpoint, Speaks::Http1).await?;
        H1Connection::handshake(dialled, cluster.header_case, generation).await
    }

    async fn dial(
        &self,
        pools: &HostPools,
        cluster: &Cluster,
        endpoint: &Endpoint,
        speaks: Speaks,
    ) -> Result<Dialled, UpstreamError> {
        let dialling = self
            .connector
            .connect(cluster, endpoint, &pools.leg, speaks);
        // An endpoint that speaks otherwise by now.
        dialling.await.inspect_err(|_| pools.agreed.forget())
    }

    async fn usable(
        &self,
        pools: &HostPools,
        connection: &mut H1Connection,
        cluster: &Cluster,
        endpoint: &Endpoint,
    ) -> bool {
        let limits = IdleLimits::of(cluster);
        is_of(connection.tls.as_ref(), cluster, endpoint)
            && limits.allow(connection.opened, connection.idle_since, Instant::now())
            && (!pools.tunnelled || connection.generation == self.tls.generation())
            && limits.allow_more(connection.requests)
            && poll_fn(|cx| Poll::Ready(connection.poll_alive(cx))).await
    }

    /// A place on an HTTP/2 connection, an open one or a new one.
    pub(crate) async fn h2(
        &self,
        pools: &HostPools,
        cluster: &Cluster,
        endpoint: &Endpoint,
        limits: Option<&Limits>,
    ) -> Result<(H2Connection, H2Stream), UpstreamError> {
        if let Some(found) = self.reserve_h2(pools, cluster, endpoint) {
            return Ok(found);
        }
        // Seldom, and large.
        Box::pin(self.new_h2(pools, cluster, endpoint, limits)).await
    }

    /// As [`h2`](Upstreams::h2), where no open one has a place.
    async fn new_h2(
        &self,
        pools: &HostPools,
        cluster: &Cluster,
        endpoint: &Endpoint,
        limits: Option<&Limits>,
    ) -> Result<(H2Connection, H2Stream), UpstreamError> {
        let _pending = limits
            .map(|limits| limits.take(Resource::PendingRequests))
            .transpose()?;
        let _waiting = self.connector.open.wait(&cluster.name);
        loop {
            let mut freed = pin!(pools.freed.notified());
            freed.as_mut().enable();
            // Requests that come while a connection is being made wait for it rather than making one each;
            // where connections are limited, one is made at a time.
            let dials = limits.map_or(1, |_| CONCURRENT_DIALS);
            let dialling = pools.dials.acquire_many(dials).await.ok();
            if let Some(found) = self.reserve_h2(pools, cluster, endpoint) {
                return Ok(found);
            }
            let Some(limits) = limits else {
                return self.dial_h2(pools, cluster, endpoint, None).await;
            };
            let has_some = !pools.h2.lock().is_empty();
            let permit = match limits.take(Resource::Connections) {
                Ok(permit) => permit,
                Err(_) if has_some && cluster.http2.max_streams.is_some() => {
                    drop(dialling);
                    freed.await;
                    continue;
                }
                Err(_) => match crowd_h2(pools) {
                    Some(found) => return Ok(found),
                    // An endpoint without a connection may always open one.
                    None => limits.take_always(Resource::Connections),
                },
            };
            let place = Place::alone(permit, limits);
            return self.dial_h2(pools, cluster, endpoint, Some(place)).await;
        }
    }

    /// A place on a new HTTP/2 connection.
    async fn dial_h2(
        &self,
        pools: &HostPools,
        cluster: &Cluster,
        endpoint: &Endpoint,
        place: Option<Place>,
    ) -> Result<(H2Connection, H2Stream), UpstreamError> {
        let generation = self.tls.generation();
        let mut dialled = self.dial(pools, cluster, endpoint, Speaks::Http2).await?;
        dialled.io.place = place;
        let connection = pools.speak_http2(dialled, cluster, generation).await?;
        let Some(stream) = connection.reserve() else {
            return Err(UpstreamError::new(
                crate::upstream::error::UpstreamErrorKind::Overflow,
            ));
        };
        pools.keep_h2(connection.clone());
        Ok((connection, stream))
    }

    fn reserve_h2(
        &self,
        pools: &HostPools,
        cluster: &Cluster,
        endpoint: &Endpoint,
    ) -> Option<(H2Connection, H2Stream)> {
        let (now, generation) = (Instant::now(), self.tls.generation());
        let limits = IdleLimits::of(cluster);
        let mut connections = pools.h2.lock();
        // One that takes no further streams ends with its last.
        connections.retain_mut(|c| {
            !c.is_closed()
                && c.settings == cluster.http2
                && is_of(c.tls.as_ref(), cluster, endpoint)
                && (!pools.tunnelled || c.generation == generation)
                && limits.allow_more(c.begun())
                && limits.allow(c.opened, c.idle_since().unwrap_or(now), now)
        });
        let mut reserved = connections.iter().filter_map(|c| Some((c, c.reserve()?)));
        reserved
            .next()
            .map(|(connection, stream)| (connection.clone(), stream))
    }

    /// Closes idle connections that the upstream closed, or that nobody used for long. Called every few
    /// seconds.
    pub(crate) fn sweep(&self, now: Instant) {
        for pools in self.live() {
            pools.sweep(now, pools.lifetimes.limits());
        }
    }

    /// Closes all that are idle: their descriptors are needed.
    pub(crate) fn let_idle_go(&self, now: Instant) {
        for pools in self.live() {
            pools.sweep(now, IdleLimits::NONE);
        }
        // Those that had nothing but such connections in them are idle now.
        self.connector.tunnels.let_idle_go();
    }

    fn live(&self) -> Vec<Arc<HostPools>> {
        let mut live = Vec::new();
        self.pools.lock().retain(|weak| match weak.upgrade() {
            Some(pools) => {
                live.push(pools);
                true
            }
            None => false,
        });
        live
    }
}

impl HostPools {
    fn new(endpoint: &Endpoint, leg: Leg) -> HostPools {
        HostPools {
            h1: Arc::default(),
            h2: Mutex::default(),
            dials: Semaphore::new(CONCURRENT_DIALS as usize),
            freed: Arc::default(),
            lifetimes: Lifetimes::unlimited(),
            tunnelled: matches!(endpoint.transport, Transport::Hbone { .. }),
            leg,
            agreed: Agreed::default(),
            asking: Semaphore::new(1),
        }
    }

    pub(crate) async fn speak_http2(
        &self,
        dialled: Dialled,
        cluster: &Cluster,
        generation: u64,
    ) -> Result<H2Connection, UpstreamError> {
        let (settings, now) = (cluster.http2, Instant::now());
        H2Connection::handshake(dialled, settings, &self.freed, generation, now).await
    }

    pub(crate) fn keep_h2(&self, connection: H2Connection) {
        self.h2.lock().push(connection);
        // It has places for others, too.
        self.freed.notify_waiters();
    }

    fn sweep(&self, now: Instant, limits: IdleLimits) {
        self.h1.sweep(now, limits);
        self.h2.lock().retain_mut(|c| {
            // One with streams is looked at when it is asked for another.
            !c.is_closed()
                && c.idle_since()
                    .is_none_or(|idle| limits.allow(c.opened, idle, now))
        });
    }
}

/// Whether a connection's TLS is what the cluster has for the endpoint now.
fn is_of(tls: Option<&Arc<UpstreamTls>>, cluster: &Cluster, endpoint: &Endpoint) -> bool {
    match (tls, &cluster.sockets.of(&endpoint.metadata).tls) {
        (None, None) => true,
        (Some(tls), Some(wanted)) => Arc::ptr_eq(tls, wanted),
        _ => false,
    }
}

/// A place on the connection with the fewest streams, though they are full.
fn crowd_h2(pools: &HostPools) -> Option<(H2Connection, H2Stream)> {
    let connections = pools.h2.lock();
    let least = connections.iter().min_by_key(|c| c.active())?;
    Some((least.clone(), least.crowd()))
}
