//! The connections that are kept for an endpoint, and the sweep that closes what is not used.
//!
//! Pools hang on [`EndpointState`]: they live as long as the endpoint does, and an endpoint that is
//! removed closes its idle connections. A connection made under an earlier own certificate is not used
//! again. Mutexes are held for a push or a pop only.

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::cluster::circuit_breakers::Resource;
use waypoint_config::model::endpoint::{Endpoint, EndpointState, Transport};
use waypoint_hbone::pool::TunnelPool;
use waypoint_hbone::tls::Tls;

use crate::overload::Overload;
use crate::process::open_files::OpenFiles;
use crate::upstream::dial::Connector;
use crate::upstream::error::UpstreamError;
use crate::upstream::h1::H1Connection;
use crate::upstream::h1_pool::{H1Pool, Turn};
use crate::upstream::h2::{H2Connection, H2Stream};
use crate::upstream::lifetimes::{IdleLimits, Lifetimes};
use crate::upstream::limits::Limits;
use crate::upstream::open::OpenConnections;
use crate::upstream::place::Place;

/// HTTP/2 connections opened at the same time to one endpoint.
const CONCURRENT_DIALS: u32 = 2;

/// The connections of one endpoint.
pub(crate) struct HostPools {
    pub(crate) h1: Arc<H1Pool>,
    h2: Mutex<Vec<H2Connection>>,
    dials: Semaphore,
    lifetimes: Lifetimes,
    /// Whether connections depend on our certificate.
    tunnelled: bool,
}

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
    ) -> Upstreams {
        let sizes = overload.sizes;
        Upstreams {
            connector: Connector {
                tunnels,
                files,
                overload,
                open: OpenConnections::new(sizes.upstream, sizes.upstream_per_cluster),
            },
            tls,
            pools: Mutex::default(),
        }
    }

    /// The pools of `endpoint`, made on its first use.
    pub(crate) fn pools_of(&self, cluster: &Cluster, endpoint: &Endpoint) -> Arc<HostPools> {
        let state: &EndpointState = &endpoint.state;
        let pools = state.pools.get_or_init(|| {
            let pools = Arc::new(HostPools {
                h1: Arc::default(),
                h2: Mutex::default(),
                dials: Semaphore::new(CONCURRENT_DIALS as usize),
                lifetimes: Lifetimes::unlimited(),
                tunnelled: matches!(endpoint.transport, Transport::Hbone { .. }),
            });
            self.pools.lock().push(Arc::downgrade(&pools));
            Box::new(pools)
        });
        match pools.downcast_ref::<Arc<HostPools>>() {
            Some(pools) => {
                pools.lifetimes.follow(cluster);
                pools.clone()
            }
            // Nobody else fills the cell; a pool of its own keeps the request going all the same.
            None => Arc::new(HostPools::unkept()),
        }
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
            if self.usable(pools, &mut connection, cluster).await {
                return Ok(connection);
            }
        }
        let Some(limits) = limits else {
            return self.h1_unpooled(cluster, endpoint).await;
        };
        let _pending = limits.take(Resource::PendingRequests)?;
        loop {
            match pools.h1.turn(limits).await? {
                Turn::Connection(mut connection) => {
                    if self.usable(pools, &mut connection, cluster).await {
                        return Ok(connection);
                    }
                }
                Turn::Place(place) => {
                    let generation = self.tls.generation();
                    let mut dialled = self
                        .connector
                        .connect(cluster, endpoint)
                        .await
                        .inspect_err(|error| pools.h1.fail(error))?;
                    dialled.io.place = Some(place);
                    return H1Connection::handshake(dialled, generation, Instant::now()).await;
                }
                Turn::Failed(kind, reason) => {
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
        cluster: &Cluster,
        endpoint: &Endpoint,
    ) -> Result<Box<H1Connection>, UpstreamError> {
        let generation = self.tls.generation();
        let dialled = self.connector.connect(cluster, endpoint).await?;
        H1Connection::handshake(dialled, generation, Instant::now()).await
    }

    async fn usable(
        &self,
        pools: &HostPools,
        connection: &mut H1Connection,
        cluster: &Cluster,
    ) -> bool {
        let limits = IdleLimits::of(cluster);
        limits.allow(connection.opened, connection.idle_since, Instant::now())
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
        if let Some(found) = self.reserve_h2(pools, cluster) {
            return Ok(found);
        }
        let _pending = limits
            .map(|limits| limits.take(Resource::PendingRequests))
            .transpose()?;
        // Requests that come while a connection is being made wait for it rather than making one each;
        // where connections are limited, one is made at a time.
        let dials = limits.map_or(1, |_| CONCURRENT_DIALS);
        let _permit = pools.dials.acquire_many(dials).await.ok();
        if let Some(found) = self.reserve_h2(pools, cluster) {
            return Ok(found);
        }
        let mut place = None;
        if let Some(limits) = limits {
            let permit = match limits.take(Resource::Connections) {
                Ok(permit) => permit,
                Err(_) => match crowd_h2(pools) {
                    Some(found) => return Ok(found),
                    // An endpoint without a connection may always open one.
                    None => limits.take_always(Resource::Connections),
                },
            };
            place = Some(Place::alone(permit, limits));
        }
        let generation = self.tls.generation();
        let mut dialled = self.connector.connect(cluster, endpoint).await?;
        dialled.io.place = place;
        let connection = H2Connection::handshake(dialled, generation, Instant::now()).await?;
        let Some(stream) = connection.reserve() else {
            return Err(UpstreamError::new(
                crate::upstream::error::UpstreamErrorKind::Overflow,
            ));
        };
        pools.h2.lock().push(connection.clone());
        Ok((connection, stream))
    }

    fn reserve_h2(&self, pools: &HostPools, cluster: &Cluster) -> Option<(H2Connection, H2Stream)> {
        let (now, generation) = (Instant::now(), self.tls.generation());
        let limits = IdleLimits::of(cluster);
        let mut connections = pools.h2.lock();
        // One that takes no further streams ends with its last.
        connections.retain(|c| {
            !c.is_closed()
                && (!pools.tunnelled || c.generation == generation)
                && limits.allow_more(c.begun())
                && limits.allow(c.opened, c.idle_since().unwrap_or(now), now)
        });
        connections
            .iter()
            .find_map(|c| Some((c.clone(), c.reserve()?)))
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
    fn unkept() -> HostPools {
        HostPools {
            h1: Arc::default(),
            h2: Mutex::default(),
            dials: Semaphore::new(CONCURRENT_DIALS as usize),
            lifetimes: Lifetimes::unlimited(),
            tunnelled: false,
        }
    }

    fn sweep(&self, now: Instant, limits: IdleLimits) {
        self.h1.sweep(now, limits);
        self.h2.lock().retain(|c| {
            // One with streams is looked at when it is asked for another.
            !c.is_closed()
                && c.idle_since()
                    .is_none_or(|idle| limits.allow(c.opened, idle, now))
        });
    }
}

/// A place on the connection with the fewest streams, though they are full.
fn crowd_h2(pools: &HostPools) -> Option<(H2Connection, H2Stream)> {
    let connections = pools.h2.lock();
    let least = connections.iter().min_by_key(|c| c.active())?;
    Some((least.clone(), least.crowd()))
}
