//! What is known of one hop: its connections, who waits for a place on one, and how many are being dialled.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::pool::options::PoolOptions;
use crate::tunnel::connect_error::ConnectError;
use crate::tunnel::connection::{ClientConnection, Lease};

pub(crate) type Place = oneshot::Receiver<Result<Lease, ConnectError>>;
pub(crate) type Waiter = oneshot::Sender<Result<Lease, ConnectError>>;

/// A [`Lease`] must not be dropped while this is locked: it would lock it again.
#[derive(Default)]
pub(crate) struct HopState {
    pub(crate) connections: Vec<Pooled>,
    pub(crate) waiters: VecDeque<Waiter>,
    pub(crate) dials: usize,
    pub(crate) last_dial: Option<Instant>,
    /// The fewest streams that the server was seen to allow.
    pub(crate) server_limit: Option<usize>,
    /// No longer in the pool's map: whoever still holds it looks again.
    pub(crate) closed: bool,
}

pub(crate) struct Pooled {
    pub(crate) connection: ClientConnection,
    pub(crate) limit: usize,
}

impl HopState {
    /// A place on the connection with the fewest tunnels.
    pub(crate) fn free_place(&self) -> Option<Lease> {
        self.connections
            .iter()
            .map(|pooled| (pooled.connection.active_streams(), pooled))
            .filter(|(active, pooled)| *active < pooled.limit && !pooled.connection.is_retired())
            .min_by_key(|(active, _)| *active)
            .map(|(_, pooled)| pooled.connection.lease())
    }

    /// Connections without a tunnel.
    pub(crate) fn idle(&self) -> Vec<ClientConnection> {
        let connections = self.connections.iter().map(|pooled| &pooled.connection);
        let idle = connections.filter(|connection| connection.active_streams() == 0);
        idle.cloned().collect()
    }

    pub(crate) fn limit(&self, options: &PoolOptions) -> usize {
        options
            .max_streams_per_connection
            .min(self.server_limit.unwrap_or(usize::MAX))
            .max(1)
    }

    /// Takes those that can be served out of the queue. The caller gives them their places after unlocking.
    pub(crate) fn serve(&mut self, waiting: &AtomicUsize) -> Vec<(Waiter, Lease)> {
        let mut served = Vec::new();
        while let Some(waiter) = self.waiters.pop_front() {
            if waiter.is_closed() {
                continue;
            }
            match self.free_place() {
                Some(lease) => served.push((waiter, lease)),
                None => {
                    self.waiters.push_front(waiter);
                    break;
                }
            }
        }
        waiting.store(self.waiters.len(), Ordering::Release);
        served
    }
}
