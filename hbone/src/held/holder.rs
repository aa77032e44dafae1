//! A tunnel as a holder of memory: what it holds, and the way to make it let go.
//!
//! Two numbers come from where the bytes are. What was given to h2 and hyper to send is on the [`Account`]. What the peer
//! sent and nobody took yet is known to h2, per stream: it is asked for only when somebody wants to know
//! ([`Holder::unread`]), so that it costs the data path nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use h2::FlowControl;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::held::account::Account;

/// Who waits for a tunnel to hold less is woken when it holds no more than this.
const WAKE_AT: usize = 256 * 1024;

/// More than this can't be unread in an HTTP/2 connection in a tunnel: its window. What counts as more was thrown away.
const MAX_UNTAKEN: usize = 4 * 1024 * 1024;

/// What an HBONE connection's tunnels hold together, as a part of what its peer's identity holds.
pub struct Share {
    identity: Arc<Account>,
    account: Arc<Account>,
    refusing: AtomicBool,
}

impl Share {
    /// A connection of the identity that this account is of.
    #[must_use]
    pub fn new(identity: &Arc<Account>) -> Arc<Share> {
        Arc::new(Share {
            identity: identity.clone(),
            account: identity.below(),
            refusing: AtomicBool::new(false),
        })
    }

    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    #[must_use]
    pub fn identity(&self) -> &Arc<Account> {
        &self.identity
    }

    /// Whether this connection, or its identity with it, has so much at work that nothing may be added.
    #[must_use]
    pub fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    pub fn refuse(&self, refusing: bool) {
        self.refusing.store(refusing, Ordering::Relaxed);
    }
}

/// The streams that carry a tunnel's bytes onward, by a number that each has while it does.
#[derive(Default)]
struct Onward {
    next: u64,
    windows: Vec<(u64, FlowControl)>,
}

/// A tunnel, for as long as anything of it is there.
pub struct Holder {
    share: Arc<Share>,
    account: Arc<Account>,
    exchanges: AtomicUsize,
    /// Bytes of requests that came on HTTP/2 in the tunnel, and those that were taken.
    arrived: AtomicUsize,
    taken: AtomicUsize,
    window: Mutex<Option<FlowControl>>,
    onward: Mutex<Onward>,
    evicted: AtomicBool,
    told: Notify,
}

impl Holder {
    /// A tunnel of the connection that has this share.
    #[must_use]
    pub fn new(share: &Arc<Share>) -> Arc<Holder> {
        Arc::new(Holder {
            share: share.clone(),
            account: share.account.below_waking_at(WAKE_AT),
            exchanges: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            window: Mutex::default(),
            onward: Mutex::default(),
            evicted: AtomicBool::new(false),
            told: Notify::new(),
        })
    }

    /// The share of its connection.
    #[must_use]
    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Requests that are at work in it.
    #[must_use]
    pub fn exchanges(&self) -> usize {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// One more request at work, until what is returned is dropped.
    #[must_use]
    pub fn exchange(self: &Arc<Holder>) -> Exchange {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        Exchange(self.clone())
    }

    /// What was sent towards it, or taken from it, and is still held.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// What the peer sent and nobody has passed on yet, and what came for it on streams that carry its bytes onward. Takes the
    /// mutexes of HTTP/2 connections for a moment.
    #[must_use]
    pub fn unread(&self) -> usize {
        let window = self.window.lock();
        let in_window = window.as_ref().map_or(0, FlowControl::used_capacity);
        drop(window);
        let onward = self.onward.lock();
        let windows = onward.windows.iter();
        let answers: usize = windows.map(|(_, window)| window.used_capacity()).sum();
        drop(onward);
        in_window
            .saturating_add(answers)
            .saturating_add(self.untaken())
    }

    /// Has h2 look whether the peer is due a larger window. It looks by itself when bytes are given back. A peer whose
    /// window fell below nothing because it was made smaller sends none that could be: without this it would wait
    /// for good.
    pub fn renew_window(&self) {
        if let Some(window) = &mut *self.window.lock() {
            // It fails for a stream that is gone: that needs none.
            let _ = window.release_capacity(0);
        }
    }

    /// Bytes of requests that came on HTTP/2 in the tunnel.
    pub fn arrived(&self, bytes: usize) {
        self.arrived.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of requests that were taken to be sent on.
    pub fn passed(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What came on HTTP/2 in the tunnel and nobody took. What is thrown away, as the rest of a request that was denied,
    /// is not told of: it is forgotten when no request is at work.
    fn untaken(&self) -> usize {
        let arrived = self.arrived.load(Ordering::Relaxed);
        if self.exchanges() == 0 {
            self.taken.store(arrived, Ordering::Relaxed);
        }
        let untaken = arrived.saturating_sub(self.taken.load(Ordering::Relaxed));
        untaken.min(MAX_UNTAKEN)
    }

    /// Tells whoever serves the tunnel to end it now: its memory is needed.
    pub fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }

    /// Returns when the tunnel is to end.
    pub async fn evicted(&self) {
        loop {
            let told = self.told.notified();
            if self.is_evicted() {
                return;
            }
            told.await;
        }
    }

    pub(crate) fn watch(&self, window: FlowControl) {
        *self.window.lock() = Some(window);
    }

    /// The handle keeps a stream alive that nobody uses any more: it would never be reset.
    pub(crate) fn unwatch(&self) {
        self.window.lock().take();
    }

    /// A stream carries its bytes onward; what is returned says which.
    pub(crate) fn watch_onward(&self, window: FlowControl) -> u64 {
        let mut onward = self.onward.lock();
        let number = onward.next;
        onward.next += 1;
        onward.windows.push((number, window));
        number
    }

    /// As [`Holder::unwatch`].
    pub(crate) fn unwatch_onward(&self, number: u64) {
        let mut onward = self.onward.lock();
        onward.windows.retain(|(other, _)| *other != number);
    }
}

/// A request at work.
pub struct Exchange(Arc<Holder>);

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.exchanges.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holder")
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_eviction_is_heard_early_and_late() {
        let holder = Holder::new(&Share::new(&Account::top()));
        let waiting = holder.clone();
        let heard = tokio::spawn(async move { waiting.evicted().await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!heard.is_finished());
        holder.evict();
        for heard in [heard, tokio::spawn(async move { holder.evicted().await })] {
            let heard = tokio::time::timeout(Duration::from_secs(5), heard).await;
            assert!(heard.is_ok());
        }
    }
}
