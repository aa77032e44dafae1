//! The places of secrets that whoever configures delivers by name, through which clusters refer to them.
//!
//! A slot may be empty: a secret may come late, or never. Until then connections of its clusters fail and say why; once it is
//! there, the next connection is made with it. What a slot held stays when its resource is taken away, as with Envoy: an istiod
//! that can't read a Secret for a moment must cost nobody a connection.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use waypoint_hbone::tls::credentials::{ClientKey, ServerRoots};

/// How long connections wait for a secret that was asked for just now: as long as Envoy's clusters do. Their own time limits
/// are mostly less.
const PATIENCE: Duration = Duration::from_secs(15);

/// What istiod calls a reference that can't be used: there is no such secret.
const INVALID: &str = "invalid://";

/// The place of one secret.
pub struct SecretSlot<T> {
    pub name: Arc<str>,
    content: ArcSwapOption<T>,
    /// Grows with every content.
    version: AtomicU64,
    asked: Instant,
    /// Whoever delivers has said that there is none.
    absent: AtomicBool,
    news: Notify,
}

impl<T> SecretSlot<T> {
    fn empty(name: &str) -> SecretSlot<T> {
        SecretSlot {
            name: name.into(),
            content: ArcSwapOption::empty(),
            version: AtomicU64::new(0),
            asked: Instant::now(),
            absent: AtomicBool::new(name.starts_with(INVALID)),
            news: Notify::new(),
        }
    }

    /// `None`: it isn't there.
    pub fn load(&self) -> Option<Arc<T>> {
        self.content.load_full()
    }

    /// Another one for every content that the slot has had; to be asked before the content.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Waits until it is there, or nobody waits any longer.
    pub async fn settled(&self) {
        let wait = async {
            loop {
                let mut news = std::pin::pin!(self.news.notified());
                news.as_mut().enable();
                if self.content.load().is_some() || self.absent.load(Ordering::Acquire) {
                    return;
                }
                news.await;
            }
        };
        let left = PATIENCE.saturating_sub(self.asked.elapsed());
        // It may have come, or not.
        let _ = tokio::time::timeout(left, wait).await;
    }

    pub(crate) fn fill(&self, content: T) {
        self.content.store(Some(Arc::new(content)));
        self.version.fetch_add(1, Ordering::Release);
        self.news.notify_waiters();
    }

    pub(crate) fn set_absent(&self) {
        self.absent.store(true, Ordering::Release);
        self.news.notify_waiters();
    }
}

impl<T> fmt::Debug for SecretSlot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretSlot").field(&self.name).finish()
    }
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecretKind {
    Key,
    Roots,
}

/// Slots by name. One name may be asked for as both; only one of them will ever be filled.
#[derive(Default)]
pub(crate) struct SecretSlots {
    keys: Slots<ClientKey>,
    roots: Slots<ServerRoots>,
}

type Slots<T> = RefCell<BTreeMap<Arc<str>, Arc<SecretSlot<T>>>>;

impl SecretSlots {
    pub(crate) fn key(&self, name: &str) -> Arc<SecretSlot<ClientKey>> {
        slot(&self.keys, name)
    }

    pub(crate) fn roots(&self, name: &str) -> Arc<SecretSlot<ServerRoots>> {
        slot(&self.roots, name)
    }

    /// Whether somebody asks for this name as this.
    pub(crate) fn asks(&self, name: &str, kind: SecretKind) -> bool {
        match kind {
            SecretKind::Key => self.keys.borrow().contains_key(name),
            SecretKind::Roots => self.roots.borrow().contains_key(name),
        }
    }

    /// The names that somebody asks for.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let (keys, roots) = (self.keys.borrow(), self.roots.borrow());
        keys.keys()
            .chain(roots.keys())
            .map(ToString::to_string)
            .collect()
    }

    /// Those of them that have never come.
    pub(crate) fn awaited(&self) -> BTreeSet<String> {
        fn empty<T>(slots: &Slots<T>) -> Vec<String> {
            let slots = slots.borrow();
            let empty = slots.values().filter(|slot| slot.content.load().is_none());
            empty.map(|slot| slot.name.to_string()).collect()
        }
        empty(&self.keys)
            .into_iter()
            .chain(empty(&self.roots))
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.borrow().is_empty() && self.roots.borrow().is_empty()
    }

    /// Keeps those of these names, of keys and of roots.
    pub(crate) fn retain(&self, keys: &BTreeSet<Arc<str>>, roots: &BTreeSet<Arc<str>>) {
        self.keys.borrow_mut().retain(|name, _| keys.contains(name));
        self.roots
            .borrow_mut()
            .retain(|name, _| roots.contains(name));
    }
}

fn slot<T>(slots: &Slots<T>, name: &str) -> Arc<SecretSlot<T>> {
    let mut slots = slots.borrow_mut();
    if let Some(slot) = slots.get(name) {
        return slot.clone();
    }
    let slot = Arc::new(SecretSlot::empty(name));
    slots.insert(slot.name.clone(), slot.clone());
    slot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_with_the_secret_or_when_nobody_has_it() {
        let slots = SecretSlots::default();
        let slot = slot::<u8>(&RefCell::default(), "a");
        let waits = |slot: &Arc<SecretSlot<u8>>| {
            let slot = slot.clone();
            tokio::spawn(async move { slot.settled().await })
        };
        let waiting = waits(&slot);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let before = slot.version();
        slot.fill(1);
        assert!(waiting.await.is_ok() && slot.version() != before);
        assert_eq!(slot.load().as_deref(), Some(&1));
        let none = super::slot::<u8>(&RefCell::default(), "b");
        let waiting = waits(&none);
        tokio::task::yield_now().await;
        none.set_absent();
        assert!(waiting.await.is_ok() && none.load().is_none());
        slots.key("k");
        slots.roots("r");
        slots.retain(&BTreeSet::from(["k".into()]), &BTreeSet::new());
        assert_eq!(slots.names(), BTreeSet::from(["k".to_owned()]));
        assert_eq!(slots.awaited(), slots.names());
        assert!(slots.asks("k", SecretKind::Key) && !slots.asks("k", SecretKind::Roots));
    }
}
