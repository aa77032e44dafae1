//! A host that a stream named: where it is, as far as that is known.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use waypoint_config::model::endpoint::Endpoint;

use crate::upstream::dynamic::wanted::Wanted;

/// A host at a port.
pub(crate) struct DynamicHost {
    /// In its table.
    pub(crate) key: Box<str>,
    pub(crate) name: Arc<str>,
    pub(crate) port: u16,
    /// Where nothing is to be looked up.
    pub(crate) address: Option<IpAddr>,
    place: ArcSwap<Place>,
    looked_up: Notify,
    forgotten: Notify,
    since: Instant,
    /// Milliseconds after `since` at which a stream asked for it last.
    used: AtomicU64,
}

enum Place {
    Unknown,
    At(Arc<Endpoint>),
    /// Nobody knows where; how the lookup ended.
    Nowhere(Arc<str>),
}

impl DynamicHost {
    pub(crate) fn new(key: &str, wanted: &Wanted<'_>) -> DynamicHost {
        DynamicHost {
            key: key.into(),
            name: wanted.host.to_ascii_lowercase().into(),
            port: wanted.port,
            address: wanted.address(),
            place: ArcSwap::from_pointee(Place::Unknown),
            looked_up: Notify::new(),
            forgotten: Notify::new(),
            since: Instant::now(),
            used: AtomicU64::new(0),
        }
    }

    /// A stream goes there.
    pub(crate) fn touch(&self) {
        let now = self.since.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.used.fetch_max(now, Ordering::Relaxed);
    }

    /// How long nobody has asked for it.
    pub(crate) fn idle(&self) -> Duration {
        let used = Duration::from_millis(self.used.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(used)
    }

    pub(crate) fn endpoint(&self) -> Option<Arc<Endpoint>> {
        match &**self.place.load() {
            Place::At(endpoint) => Some(endpoint.clone()),
            Place::Unknown | Place::Nowhere(_) => None,
        }
    }

    /// Whether a lookup has ended, well or not.
    pub(crate) fn is_found(&self) -> bool {
        !matches!(&**self.place.load(), Place::Unknown)
    }

    /// Why it can't be reached, if that is known.
    pub(crate) fn nowhere(&self) -> Option<Arc<str>> {
        match &**self.place.load() {
            Place::Nowhere(reason) => Some(reason.clone()),
            Place::Unknown | Place::At(_) => None,
        }
    }

    /// Returns when a lookup has ended.
    pub(crate) async fn looked_up(&self) {
        loop {
            let ended = self.looked_up.notified();
            if self.is_found() {
                return;
            }
            ended.await;
        }
    }

    pub(crate) fn is_at(&self, endpoint: Arc<Endpoint>) {
        self.place.store(Arc::new(Place::At(endpoint)));
        self.looked_up.notify_waiters();
    }

    pub(crate) fn is_nowhere(&self, reason: &str) {
        self.place.store(Arc::new(Place::Nowhere(reason.into())));
        self.looked_up.notify_waiters();
    }

    /// It is in no table any more.
    pub(crate) fn forget(&self) {
        self.forgotten.notify_one();
        if !self.is_found() {
            self.is_nowhere("forgotten");
        }
    }

    pub(crate) async fn forgotten(&self) {
        self.forgotten.notified().await;
    }
}
