//! The connections that are kept for an endpoint, and the sweep that closes what is not used.
//!
//! Pools hang on [`EndpointState`]: they live as long as the endpoint does, and an endpoint that is
//! removed closes its idle connections. A connection made under an earlier own certificate is not used
//! again. Mutexes are held for a push or a pop only.

use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::endpoint::{Endpoint, EndpointState, Transport};
use waypoint_hbone::pool::TunnelPool;
use waypoint_hbone::tls::Tls;

use crate::upstream::dial::{DEFAULT_IDLE, dial};
use crate::upstream::error::UpstreamError;
use crate::upstream::h1::H1Connection;
use crate::upstream::h2::{H2Connection, H2Stream};

/// Idle HTTP/1.1 connections kept per endpoint; more are closed when they come back.
const MAX_IDLE: usize = 512;
/// HTTP/2 connections opened at the same time to one endpoint.
const CONCURRENT_DIALS: usize = 2;

/// The connections of one endpoint.
pub(crate) struct HostPools {
    /// Boxed: a connection is some hundred bytes, and moves between pool and exchange.
    #[allow(clippy::vec_box)]
    h1: Mutex<Vec<Box<H1Connection>>>,
    h2: Mutex<Vec<H2Connection>>,
    dials: Semaphore,
    idle_timeout: Duration,
    /// Whether connections depend on our certificate.
    tunnelled: bool,
}

/// What pools need of the process: tunnels, the certificate's generation, and the list for the sweep.
pub(crate) struct Upstreams {
    pub(crate) tunnels: TunnelPool,
    pub(crate) tls: Tls,
    pools: Mutex<Vec<Weak<HostPools>>>,
}

impl Upstreams {
    pub(crate) fn new(tunnels: TunnelPool, tls: Tls) -> Upstreams {
        Upstreams {
            tunnels,
            tls,
            pools: Mutex::default(),
        }
    }

    /// The pools of `endpoint`, made on its first use.
    pub(crate) fn pools_of(&self, cluster: &Cluster, endpoint: &Endpoint) -> Arc<HostPools> {
        let state: &EndpointState = &endpoint.state;
        let pools = state.pools.get_or_init(|| {
            let pools = Arc::new(HostPools {
                h1: Mutex::default(),
                h2: Mutex::default(),
                dials: Semaphore::new(CONCURRENT_DIALS),
                idle_timeout: cluster.idle_timeout.unwrap_or(DEFAULT_IDLE),
                tunnelled: matches!(endpoint.transport, Transport::Hbone { .. }),
            });
            self.pools.lock().push(Arc::downgrade(&pools));
            Box::new(pools)
        });
        match pools.downcast_ref::<Arc<HostPools>>() {
            Some(pools) => pools.clone(),
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
    ) -> Result<Box<H1Connection>, UpstreamError> {
        let now = Instant::now();
        while let Some(mut connection) = pools.pop() {
            if self.usable(pools, &connection, cluster, now)
                && std::future::poll_fn(|cx| std::task::Poll::Ready(connection.poll_alive(cx)))
                    .await
            {
                return Ok(connection);
            }
        }
        self.h1_unpooled(cluster, endpoint).await
    }

    /// A new HTTP/1.1 connection.
    pub(crate) async fn h1_unpooled(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
    ) -> Result<Box<H1Connection>, UpstreamError> {
        let generation = self.tls.generation();
        let dialled = dial(&self.tunnels, cluster, endpoint).await?;
        H1Connection::handshake(dialled, generation, Instant::now()).await
    }

    fn usable(
        &self,
        pools: &HostPools,
        connection: &H1Connection,
        cluster: &Cluster,
        now: Instant,
    ) -> bool {
        let age = now.saturating_duration_since(connection.opened);
        (!pools.tunnelled || connection.generation == self.tls.generation())
            && cluster
                .max_requests_per_connection
                .is_none_or(|max| max == 0 || connection.requests < max)
            && cluster.max_connection_duration.is_none_or(|max| age < max)
    }

    /// A place on an HTTP/2 connection, an open one or a new one.
    pub(crate) async fn h2(
        &self,
        pools: &HostPools,
        cluster: &Cluster,
        endpoint: &Endpoint,
    ) -> Result<(H2Connection, H2Stream), UpstreamError> {
        if let Some(found) = self.reserve_h2(pools) {
            return Ok(found);
        }
        // Requests that come while a connection is being made wait for it rather than making one each.
        let _permit = self.dial_permit(pools).await;
        if let Some(found) = self.reserve_h2(pools) {
            return Ok(found);
        }
        let generation = self.tls.generation();
        let dialled = dial(&self.tunnels, cluster, endpoint).await?;
        let connection = H2Connection::handshake(dialled, generation, Instant::now()).await?;
        let Some(stream) = connection.reserve() else {
            return Err(UpstreamError::new(
                crate::upstream::error::UpstreamErrorKind::Overflow,
            ));
        };
        pools.h2.lock().push(connection.clone());
        Ok((connection, stream))
    }

    async fn dial_permit<'a>(
        &self,
        pools: &'a HostPools,
    ) -> Option<tokio::sync::SemaphorePermit<'a>> {
        pools.dials.acquire().await.ok()
    }

    fn reserve_h2(&self, pools: &HostPools) -> Option<(H2Connection, H2Stream)> {
        let generation = self.tls.generation();
        let mut connections = pools.h2.lock();
        connections.retain(|c| !c.is_closed() && (!pools.tunnelled || c.generation == generation));
        connections
            .iter()
            .find_map(|c| Some((c.clone(), c.reserve()?)))
    }

    /// Closes idle connections that the upstream closed, or that nobody used for long. Called every few
    /// seconds.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut live = Vec::new();
        self.pools.lock().retain(|weak| match weak.upgrade() {
            Some(pools) => {
                live.push(pools);
                true
            }
            None => false,
        });
        for pools in live {
            pools.sweep(now);
        }
    }
}

impl HostPools {
    fn unkept() -> HostPools {
        HostPools {
            h1: Mutex::default(),
            h2: Mutex::default(),
            dials: Semaphore::new(CONCURRENT_DIALS),
            idle_timeout: DEFAULT_IDLE,
            tunnelled: false,
        }
    }

    fn pop(&self) -> Option<Box<H1Connection>> {
        self.h1.lock().pop()
    }

    /// Takes back a connection that can carry another request.
    pub(crate) fn put(&self, mut connection: Box<H1Connection>, now: Instant) {
        connection.idle_since = now;
        let mut idle = self.h1.lock();
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    fn sweep(&self, now: Instant) {
        // Taken out in one go: a request that finds the list empty meanwhile opens a connection.
        let mut idle = std::mem::take(&mut *self.h1.lock());
        let mut cx = Context::from_waker(Waker::noop());
        idle.retain_mut(|connection| {
            now.saturating_duration_since(connection.idle_since) < self.idle_timeout
                && connection.poll_alive(&mut cx)
        });
        self.h1.lock().append(&mut idle);
        let idle_timeout = self.idle_timeout;
        self.h2.lock().retain(|c| {
            !c.is_closed()
                && (c.active() > 0 || now.saturating_duration_since(c.opened) < idle_timeout)
        });
    }
}
