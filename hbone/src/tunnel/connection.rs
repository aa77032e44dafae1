//! A client's connection to a server, as its tunnels and the pool share it: who is at the other end, how many tunnels there are, and
//! whether there may be more.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::frames::frame_watch::FloodMark;
use crate::identity::Identity;
use crate::io::reset::io_error;
use crate::tls::tls_info::TlsInfo;
use crate::tunnel::connect_error::ConnectError;

/// Told when a connection has room for one more stream, or has nothing left to do.
pub(crate) trait ConnectionOwner: Send + Sync {
    /// A stream has ended, and others are waiting.
    fn freed(&self);
    /// The connection has ended, or has been idle for `idle_timeout`. Whether it may be closed.
    fn retire(&self, connection: &ClientConnection) -> bool;
}

/// A connection to a server, on which tunnels can be opened. Clones share it; it closes when the last clone and the
/// last tunnel are gone.
#[derive(Clone)]
pub struct ClientConnection {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) hop: SocketAddr,
    pub(crate) peer: Identity,
    pub(crate) local_addr: SocketAddr,
    pub(crate) generation: u64,
    pub(crate) tls: Arc<TlsInfo>,
    pub(crate) response_timeout: Duration,
    /// Cloned for each stream, under a lock held for that alone.
    pub(crate) send: Mutex<SendRequest<Bytes>>,
    pub(crate) active: AtomicUsize,
    pub(crate) retired: AtomicBool,
    /// The latest time that a stream ended.
    pub(crate) last_used: Mutex<Instant>,
    pub(crate) owner: Option<Weak<dyn ConnectionOwner>>,
    pub(crate) flood: FloodMark,
}

impl Shared {
    /// Why there is no answer to a CONNECT.
    pub(crate) fn failed(&self, error: h2::Error) -> ConnectError {
        let hop = self.hop;
        match self.flood.get() {
            Some(flood) => ConnectError::Flooded { hop, flood },
            None => ConnectError::Handshake {
                hop,
                error: Arc::new(io_error(error)),
            },
        }
    }
}

/// A place for one stream on a connection.
pub(crate) struct Lease {
    connection: ClientConnection,
}

impl Lease {
    pub(crate) fn peer(&self) -> &Identity {
        &self.connection.shared.peer
    }

    pub(crate) fn tls(&self) -> &Arc<TlsInfo> {
        &self.connection.shared.tls
    }

    pub(crate) fn connection(&self) -> &ClientConnection {
        &self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let shared = &self.connection.shared;
        *shared.last_used.lock() = Instant::now();
        shared.active.fetch_sub(1, Ordering::AcqRel);
        if let Some(owner) = shared.owner.as_ref().and_then(Weak::upgrade) {
            owner.freed();
        }
    }
}

/// What the pool adds to a connection.
pub(crate) struct Owned {
    pub(crate) owner: Weak<dyn ConnectionOwner>,
    pub(crate) idle_timeout: Duration,
}

impl ClientConnection {
    /// The server's identity, from its certificate.
    pub fn peer(&self) -> &Identity {
        &self.shared.peer
    }

    /// Our end of the TCP connection.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// [`Tls::generation`] at the time of the handshake.
    pub fn certificate_generation(&self) -> u64 {
        self.shared.generation
    }

    /// Tunnels that are open or being opened.
    pub fn active_streams(&self) -> usize {
        self.shared.active.load(Ordering::Acquire)
    }

    /// The server's SETTINGS_MAX_CONCURRENT_STREAMS, as far as it's known.
    pub fn max_streams(&self) -> usize {
        self.shared.send.lock().current_max_send_streams()
    }

    /// Whether streams can still be opened: no GOAWAY, no failure.
    pub fn is_usable(&self) -> bool {
        if self.shared.retired.load(Ordering::Acquire) {
            return false;
        }
        let mut cx = Context::from_waker(Waker::noop());
        let usable = !matches!(
            self.shared.send.lock().poll_ready(&mut cx),
            Poll::Ready(Err(_))
        );
        if !usable {
            self.retire();
        }
        usable
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.shared.retired.load(Ordering::Acquire)
    }

    pub(crate) fn retire(&self) {
        self.shared.retired.store(true, Ordering::Release);
    }

    pub(crate) fn is_same(&self, other: &ClientConnection) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Takes a place, whatever the limits: they are the pool's matter.
    pub(crate) fn lease(&self) -> Lease {
        self.shared.active.fetch_add(1, Ordering::AcqRel);
        Lease {
            connection: self.clone(),
        }
    }
}
