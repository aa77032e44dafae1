//! Tunnels to other workloads, over shared connections.
//!
//! A connection is shared by all tunnels to the same hop that were begun under the same own certificate: a change of
//! certificate or trust domains makes new connections, and the old ones end with their last tunnel. One HTTP/2 connection doesn't
//! scale over cores (h2 has one mutex, TLS one task), so a further one is opened when all have
//! `max_streams_per_connection` tunnels, or as many as the server allows.
//!
//! Those who wait share dials: one dial serves as many as one connection has room for, whoever gets a
//! place first takes it, and a slow dial is given company after a while. Hops are independent of each other: the map
//! is read without a lock, and no lock is held over an await.

mod hop_state;
mod options;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::client::{ClientOptions, connect_owned};
use crate::pool::hop_state::{HopState, Place, Pooled, Waiter};
pub use crate::pool::options::PoolOptions;
use crate::tls::Tls;
use crate::tunnel::connect_error::ConnectError;
use crate::tunnel::connection::{ClientConnection, ConnectionOwner, Lease, Owned};
use crate::tunnel::stream::TunnelStream;

/// How often a tunnel that found its pooled connection closing is tried again on another.
const STALE_RETRIES: usize = 2;

/// Callers that wait for a connection to one hop.
const MAX_WAITERS: usize = 16 * 1024;

/// Dials at the same time to a hop that doesn't answer.
const MAX_SLOW_DIALS: usize = 4;

/// Tunnels over shared connections. Clones share the pool.
#[derive(Clone)]
pub struct TunnelPool {
    inner: Arc<Inner>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct HopKey {
    address: SocketAddr,
    generation: u64,
}

struct Inner {
    tls: Tls,
    options: PoolOptions,
    client: ClientOptions,
    hops: ArcSwap<HashMap<HopKey, Arc<Hop>>>,
}

impl TunnelPool {
    pub fn new(tls: Tls, options: PoolOptions) -> TunnelPool {
        let client = ClientOptions {
            connect_timeout: options.connect_timeout,
            response_timeout: options.response_timeout,
            source: options.source,
            http2: options.http2.clone(),
            socket: options.socket.clone(),
            floods: options.floods.clone(),
        };
        let inner = Inner {
            tls,
            options,
            client,
            hops: ArcSwap::default(),
        };
        TunnelPool {
            inner: Arc::new(inner),
        }
    }

    /// Opens a tunnel to `authority` through the HBONE port at `hop`.
    pub async fn connect(
        &self,
        hop: SocketAddr,
        authority: &str,
        headers: HeaderMap,
    ) -> Result<TunnelStream, ConnectError> {
        let mut retries = 0;
        loop {
            let lease = self.lease(hop).await?;
            let connection = lease.connection().clone();
            match connection.open_leased(lease, authority, &headers).await {
                // The connection ended, or the server allows fewer streams than we knew.
                Err(error)
                    if retries < STALE_RETRIES && (error.refused() || !connection.is_usable()) =>
                {
                    tracing::debug!(%error, "HBONE connection took no more tunnels; trying another");
                    retries += 1;
                }
                result => return result,
            }
        }
    }

    /// Connections that are open, over all hops.
    pub fn connections(&self) -> usize {
        self.inner
            .hops
            .load()
            .values()
            .map(|hop| hop.state.lock().connections.len())
            .sum()
    }

    /// Closes connections without a tunnel: their descriptors are needed. They are gone when their tasks have run.
    pub fn let_idle_go(&self) {
        for hop in self.inner.hops.load().values() {
            let idle = hop.state.lock().idle();
            for connection in &idle {
                hop.retire(connection);
            }
        }
    }

    async fn lease(&self, address: SocketAddr) -> Result<Lease, ConnectError> {
        let timeout = self.inner.options.connect_timeout;
        let deadline = Instant::now() + timeout;
        loop {
            let hop = self.inner.hop(HopKey {
                address,
                generation: self.inner.tls.generation(),
            });
            let lease = match hop.acquire(&self.inner)? {
                Acquired::Lease(lease) => lease,
                Acquired::Closed => {
                    self.inner.remove(&hop);
                    continue;
                }
                Acquired::Wait(place) => match hop.wait(&self.inner, place, deadline).await {
                    Waited::Served(result) => result?,
                    Waited::Closed => continue,
                    Waited::TimedOut => {
                        return Err(ConnectError::Timeout {
                            hop: address,
                            phase: "free connection",
                            timeout,
                        });
                    }
                },
            };
            if hop.fits(&lease) {
                return Ok(lease);
            }
        }
    }
}

impl Inner {
    fn hop(self: &Arc<Inner>, key: HopKey) -> Arc<Hop> {
        match self.hops.load().get(&key) {
            Some(hop) => hop.clone(),
            None => self.insert(key),
        }
    }

    /// The hop of this key, made if there is none. Hops of earlier certificates are let go.
    fn insert(self: &Arc<Inner>, key: HopKey) -> Arc<Hop> {
        let new = Arc::new_cyclic(|own| Hop {
            key,
            own: own.clone(),
            pool: Arc::downgrade(self),
            state: Mutex::default(),
            waiting: AtomicUsize::new(0),
        });
        let mut stale = Vec::new();
        let mut result = new.clone();
        self.hops.rcu(|hops| {
            if let Some(there) = hops.get(&key) {
                result = there.clone();
                return hops.clone();
            }
            result = new.clone();
            stale.clear();
            let mut next = HashMap::with_capacity(hops.len() + 1);
            for (other, hop) in hops.iter() {
                if other.generation < key.generation {
                    stale.push(hop.clone());
                } else {
                    next.insert(*other, hop.clone());
                }
            }
            next.insert(key, new.clone());
            Arc::new(next)
        });
        for hop in stale {
            hop.close();
        }
        result
    }

    fn remove(&self, hop: &Arc<Hop>) {
        self.hops.rcu(|hops| match hops.get(&hop.key) {
            Some(there) if Arc::ptr_eq(there, hop) => {
                let mut next = HashMap::clone(hops);
                next.remove(&hop.key);
                Arc::new(next)
            }
            _ => hops.clone(),
        });
    }
}

/// The connections to one hop under one certificate.
struct Hop {
    key: HopKey,
    own: Weak<Hop>,
    pool: Weak<Inner>,
    state: Mutex<HopState>,
    /// `state.waiters.len()`, to be read without the lock.
    waiting: AtomicUsize,
}

enum Acquired {
    Lease(Lease),
    Wait(Place),
    Closed,
}

enum Waited {
    Served(Result<Lease, ConnectError>),
    Closed,
    TimedOut,
}

impl Hop {
    /// A free place; or a place in the queue, and a dial if one is needed.
    fn acquire(&self, pool: &Arc<Inner>) -> Result<Acquired, ConnectError> {
        let mut state = self.state.lock();
        if state.closed {
            return Ok(Acquired::Closed);
        }
        if state.waiters.is_empty()
            && let Some(lease) = state.free_place()
        {
            return Ok(Acquired::Lease(lease));
        }
        if state.waiters.len() >= MAX_WAITERS {
            state.waiters.retain(|waiter| !waiter.is_closed());
            if state.waiters.len() >= MAX_WAITERS {
                return Err(ConnectError::Overflow {
                    hop: self.key.address,
                });
            }
        }
        let (waiter, place) = oneshot::channel();
        state.waiters.push_back(waiter);
        self.waiting.store(state.waiters.len(), Ordering::Release);
        self.dial_for_waiters(&mut state, pool);
        Ok(Acquired::Wait(place))
    }

    /// Whether connection and server take the stream. What the server allows is known only after its SETTINGS have come.
    fn fits(&self, lease: &Lease) -> bool {
        let connection = lease.connection();
        if !connection.is_usable() {
            self.forget(connection);
            return false;
        }
        let allowed = connection.max_streams();
        let mut state = self.state.lock();
        let Some(pooled) = state
            .connections
            .iter_mut()
            .find(|pooled| pooled.connection.is_same(connection))
        else {
            return true;
        };
        if allowed < pooled.limit {
            pooled.limit = allowed.max(1);
            state.server_limit = Some(state.server_limit.unwrap_or(allowed).min(allowed));
        } else if connection.active_streams() <= pooled.limit {
            return true;
        }
        connection.active_streams() <= allowed.max(1)
    }

    async fn wait(&self, pool: &Arc<Inner>, mut place: Place, deadline: Instant) -> Waited {
        loop {
            let until = deadline.min(Instant::now() + pool.options.slow_dial);
            match tokio::time::timeout_at(until, &mut place).await {
                Ok(Ok(result)) => return Waited::Served(result),
                Ok(Err(_)) => return Waited::Closed,
                Err(_) if Instant::now() >= deadline => return Waited::TimedOut,
                Err(_) => self.dial_beside_slow(pool),
            }
        }
    }

    fn dial_for_waiters(&self, state: &mut HopState, pool: &Arc<Inner>) {
        while state.dials * state.limit(&pool.options) < state.waiters.len() {
            if !self.dial(state, pool) {
                return;
            }
        }
    }

    fn dial_beside_slow(&self, pool: &Arc<Inner>) {
        let mut state = self.state.lock();
        let due = state
            .last_dial
            .is_none_or(|last| last.elapsed() >= pool.options.slow_dial);
        if due && state.dials < MAX_SLOW_DIALS {
            self.dial(&mut state, pool);
        }
    }

    /// Begins a dial, unless there are as many connections as there may be.
    fn dial(&self, state: &mut HopState, pool: &Arc<Inner>) -> bool {
        let Some(hop) = self.own.upgrade() else {
            return false;
        };
        if state.dials + state.connections.len() >= pool.options.max_connections_per_hop.max(1) {
            return false;
        }
        state.dials += 1;
        state.last_dial = Some(Instant::now());
        let pool = pool.clone();
        tokio::spawn(async move {
            let owner: Weak<dyn ConnectionOwner> = hop.own.clone();
            let owned = Owned {
                owner,
                idle_timeout: pool.options.idle_timeout,
            };
            let result = connect_owned(&pool.tls, hop.key.address, &pool.client, Some(owned)).await;
            hop.dialled(result, &pool);
        });
        true
    }

    fn dialled(&self, result: Result<ClientConnection, ConnectError>, pool: &Arc<Inner>) {
        let mut served = Vec::new();
        let mut failed = None;
        let mut unused = None;
        {
            let mut state = self.state.lock();
            state.dials = state.dials.saturating_sub(1);
            match result {
                Ok(connection) if state.closed => unused = Some(connection),
                Ok(connection) => {
                    let limit = state.limit(&pool.options);
                    state.connections.push(Pooled { connection, limit });
                    served = state.serve(&self.waiting);
                    self.dial_for_waiters(&mut state, pool);
                }
                // Others may still succeed.
                Err(_) if state.dials > 0 => {}
                Err(error) => {
                    failed = Some((error, std::mem::take(&mut state.waiters)));
                    self.waiting.store(0, Ordering::Release);
                }
            }
        }
        drop(unused);
        give(served);
        if let Some((error, waiters)) = failed {
            for waiter in waiters {
                let _ = waiter.send(Err(error.clone()));
            }
        }
        self.clean_up();
    }

    fn forget(&self, connection: &ClientConnection) {
        let forgotten: Vec<Pooled> = {
            let mut state = self.state.lock();
            state
                .connections
                .extract_if(.., |pooled| pooled.connection.is_same(connection))
                .collect()
        };
        drop(forgotten);
        self.clean_up();
    }

    /// Leaves the pool's map when there is nothing left to keep.
    fn clean_up(&self) {
        let empty = {
            let mut state = self.state.lock();
            let empty =
                state.connections.is_empty() && state.waiters.is_empty() && state.dials == 0;
            state.closed |= empty;
            empty
        };
        if empty && let (Some(pool), Some(hop)) = (self.pool.upgrade(), self.own.upgrade()) {
            pool.remove(&hop);
        }
    }

    /// The certificate has changed: connections end with their last tunnel, those who wait go to the new hop.
    fn close(&self) {
        let (connections, waiters) = {
            let mut state = self.state.lock();
            state.closed = true;
            self.waiting.store(0, Ordering::Release);
            (
                std::mem::take(&mut state.connections),
                std::mem::take(&mut state.waiters),
            )
        };
        drop((connections, waiters));
    }
}

/// Whoever no longer waits gives the place back by dropping it.
fn give(served: Vec<(Waiter, Lease)>) {
    for (waiter, lease) in served {
        let _ = waiter.send(Ok(lease));
    }
}

impl ConnectionOwner for Hop {
    fn freed(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            let served = self.state.lock().serve(&self.waiting);
            give(served);
        }
    }

    fn retire(&self, connection: &ClientConnection) -> bool {
        let in_use = {
            // Leases are taken under this lock: none is taken in between.
            let _state = self.state.lock();
            let in_use = connection.active_streams() > 0 && !connection.is_retired();
            if !in_use {
                connection.retire();
            }
            in_use
        };
        if !in_use {
            self.forget(connection);
        }
        !in_use
    }
}
