//! Places for connections of strangers, which nobody can hold.
//!
//! Whoever comes gets one at once. When there are too many, in all or from one source, the one goes that has been silent
//! longest: a peer that means it has long said what it came for. A source is an IPv4 address, or an
//! IPv6 network of 64 bits, of which one peer may have every address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How many there may be at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) total: usize,
    pub(crate) per_source: usize,
}

/// Why one had to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowd {
    /// There were too many in all.
    All,
    /// There were too many from its source.
    Source,
}

/// The places. Clones are the same ones.
#[derive(Clone)]
pub(crate) struct Places(Arc<Shared>);

struct Shared {
    bounds: Bounds,
    table: Mutex<Table>,
    /// Told to go, and not gone yet.
    leaving: AtomicUsize,
}

/// By the time of the last sign of life, which is a number that grows.
#[derive(Default)]
struct Table {
    next: u64,
    held: BTreeMap<u64, Held>,
    by_source: HashMap<IpAddr, BTreeSet<u64>>,
}

struct Held {
    source: IpAddr,
    go: oneshot::Sender<Crowd>,
}

/// A place, until it is dropped.
pub(crate) struct Place {
    shared: Arc<Shared>,
    number: AtomicU64,
    /// Somebody had to go for it.
    pub(crate) crowd: Option<Crowd>,
}

/// Resolves when the place is needed for others.
pub(crate) struct ToldToGo(oneshot::Receiver<Crowd>);

impl Future for ToldToGo {
    type Output = Crowd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Crowd> {
        match Pin::new(&mut self.0).poll(cx) {
            Poll::Ready(Ok(crowd)) => Poll::Ready(crowd),
            // Nobody tells it any more.
            _ => Poll::Pending,
        }
    }
}

impl Places {
    pub(crate) fn new(bounds: Bounds) -> Places {
        Places(Arc::new(Shared {
            bounds,
            table: Mutex::default(),
            leaving: AtomicUsize::new(0),
        }))
    }

    /// A place for a connection from there, and what resolves when it has to go.
    pub(crate) fn enter(&self, from: IpAddr) -> (Place, ToldToGo) {
        let (go, told) = oneshot::channel();
        let source = source(from);
        let mut table = self.0.table.lock();
        let number = table.add(Held { source, go });
        let mine = table.by_source.get(&source);
        let crowded = mine.is_some_and(|mine| mine.len() > self.0.bounds.per_source.max(1));
        let crowd = if crowded {
            let oldest = mine.and_then(|mine| mine.first()).copied();
            self.0.send_away(&mut table, oldest, Crowd::Source);
            Some(Crowd::Source)
        } else if table.held.len() > self.0.bounds.total.max(1) {
            let oldest = table.held.keys().next().copied();
            self.0.send_away(&mut table, oldest, Crowd::All);
            Some(Crowd::All)
        } else {
            None
        };
        let place = Place {
            shared: self.0.clone(),
            number: AtomicU64::new(number),
            crowd,
        };
        (place, ToldToGo(told))
    }

    /// Sends away the half that has been silent longest.
    pub(crate) fn halve(&self) {
        let mut table = self.0.table.lock();
        for _ in 0..table.held.len().div_ceil(2) {
            let oldest = table.held.keys().next().copied();
            self.0.send_away(&mut table, oldest, Crowd::All);
        }
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.0.table.lock().held.len()
    }

    /// Whether so many were told to go and haven't yet that whoever lets others in should wait.
    pub(crate) fn is_behind(&self) -> bool {
        self.0.leaving.load(Ordering::Relaxed) > self.0.bounds.total / 4
    }
}

impl Shared {
    fn send_away(&self, table: &mut Table, number: Option<u64>, why: Crowd) {
        if let Some(held) = number.and_then(|number| table.remove(number)) {
            self.leaving.fetch_add(1, Ordering::Relaxed);
            let _ = held.go.send(why);
        }
    }
}

impl Table {
    fn add(&mut self, held: Held) -> u64 {
        let number = self.next;
        self.next += 1;
        self.by_source
            .entry(held.source)
            .or_default()
            .insert(number);
        self.held.insert(number, held);
        number
    }

    fn remove(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        if let Some(mine) = self.by_source.get_mut(&held.source) {
            mine.remove(&number);
            if mine.is_empty() {
                self.by_source.remove(&held.source);
            }
        }
        Some(held)
    }
}

impl Place {
    /// It has given a sign of life: others go first.
    pub(crate) fn refresh(&self) {
        let mut table = self.shared.table.lock();
        if let Some(held) = table.remove(self.number.load(Ordering::Relaxed)) {
            self.number.store(table.add(held), Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let number = self.number.load(Ordering::Relaxed);
        if self.shared.table.lock().remove(number).is_none() {
            self.shared.leaving.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) >> 64 << 64;
            Ipv6Addr::from(network).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    fn places(total: usize, per_source: usize) -> Places {
        Places::new(Bounds { total, per_source })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn told(future: Pin<&mut impl Future<Output = Crowd>>) -> Option<Crowd> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(crowd) => Some(crowd),
            Poll::Pending => None,
        }
    }

    #[test]
    fn who_has_been_silent_longest_goes_first() {
        let places = places(2, 2);
        let (first, to_first) = places.enter(ip("10.0.0.1"));
        let (second, to_second) = places.enter(ip("10.0.0.2"));
        let (mut to_first, mut to_second) = (pin!(to_first), pin!(to_second));
        first.refresh();
        let (_third, _) = places.enter(ip("10.0.0.3"));
        assert_eq!(told(to_second.as_mut()), Some(Crowd::All));
        assert_eq!(told(to_first.as_mut()), None);
        assert_eq!(places.taken(), 2);
        // Who is told to go may say what it likes.
        second.refresh();
        drop((first, second));
        assert_eq!(places.taken(), 1);
        assert_eq!(places.0.leaving.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_source_that_has_too_many_loses_its_own() {
        let places = places(100, 2);
        let (_other, to_other) = places.enter(ip("10.0.0.9"));
        let mut to_other = pin!(to_other);
        let mine: Vec<_> = (0..5).map(|_| places.enter(ip("10.0.0.1"))).collect();
        assert_eq!(places.taken(), 3);
        let mut kept = Vec::new();
        for (place, to_go) in mine {
            let mut to_go = pin!(to_go);
            let crowd = told(to_go.as_mut());
            assert!(crowd.is_none_or(|crowd| crowd == Crowd::Source));
            kept.push((place, crowd.is_none()));
        }
        let stayed: Vec<bool> = kept.iter().map(|(_, kept)| *kept).collect();
        assert_eq!(stayed, [false, false, false, true, true]);
        assert_eq!(told(to_other.as_mut()), None);
        drop(kept);
        assert_eq!(
            (places.taken(), places.0.table.lock().by_source.len()),
            (1, 1)
        );
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_mapped_addresses_are_ipv4() {
        assert_eq!(source(ip("fd00::1:2:3:4")), source(ip("fd00::9")));
        assert_ne!(source(ip("fd00:0:0:1::1")), source(ip("fd00::1")));
        assert_eq!(source(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    }

    #[test]
    fn many_who_do_not_go_hold_up_who_lets_others_in() {
        let places = places(2, 2);
        let held: Vec<_> = (0..5).map(|_| places.enter(ip("10.0.0.1"))).collect();
        assert!(places.is_behind());
        drop(held);
        assert!(!places.is_behind());
        let _held: Vec<_> = (0..2).map(|_| places.enter(ip("10.0.0.1"))).collect();
        places.halve();
        assert_eq!(places.taken(), 1);
    }
}
