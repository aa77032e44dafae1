//! Who holds memory: identities, their HBONE connections, the tunnels in these; and who holds most.
//!
//! Tables are written to when a connection or a tunnel begins. How much each holds is asked for from time to time, and
//! more often when memory is short: it costs the data path nothing.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use waypoint_hbone::held::account::Account;
use waypoint_hbone::held::holder::{Holder, Share};
use waypoint_hbone::identity::Identity;

/// What a request at work costs beside the bytes that are counted: its head, its tasks, a connection upstream.
const EXCHANGE: u64 = 32 * 1024;
/// A tunnel that holds less is never ended for it.
const LEAST: u64 = 64 * 1024;

/// All holders.
#[derive(Default)]
pub(crate) struct Holders {
    identities: Mutex<HashMap<Identity, Arc<Account>>>,
    connections: Mutex<Vec<Weak<Connection>>>,
}

/// An HBONE connection as a holder.
pub(crate) struct Connection {
    identity: Identity,
    share: Arc<Share>,
    tunnels: Mutex<Vec<Weak<Holder>>>,
}

impl Connection {
    /// A tunnel begins.
    pub(crate) fn tunnel(&self) -> Arc<Holder> {
        let holder = Holder::new(&self.share);
        let mut tunnels = self.tunnels.lock();
        // Room is made for twice as many as there are: each is looked at once in a while only.
        if tunnels.len() == tunnels.capacity() {
            tunnels.retain(|tunnel| tunnel.strong_count() > 0);
            let more = tunnels.len().max(4);
            tunnels.reserve(more);
        }
        tunnels.push(Arc::downgrade(&holder));
        holder
    }

    pub(crate) fn share(&self) -> &Share {
        &self.share
    }
}

/// What a tunnel holds now.
pub(crate) struct Held {
    pub(crate) identity: Identity,
    pub(crate) tunnel: Arc<Holder>,
    pub(crate) bytes: u64,
}

/// What an identity holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdentityHeld {
    pub(crate) bytes: u64,
    pub(crate) exchanges: usize,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) connections: u64,
    pub(crate) tunnels: u64,
    /// HTTP requests in them.
    pub(crate) requests: u64,
}

/// How much may be at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) exchanges_per_connection: usize,
    pub(crate) exchanges_per_identity: usize,
    /// From which sum on an identity gets no further tunnels and requests.
    pub(crate) fair: u64,
}

impl Holders {
    /// A connection of this identity begins.
    pub(crate) fn connection(&self, identity: &Identity) -> Arc<Connection> {
        let account = {
            let mut identities = self.identities.lock();
            // As many as have connections, but for those that are gone since the last look.
            let account = identities.entry(identity.clone());
            account.or_insert_with(Account::top).clone()
        };
        let connection = Arc::new(Connection {
            identity: identity.clone(),
            share: Share::new(&account),
            tunnels: Mutex::default(),
        });
        self.connections.lock().push(Arc::downgrade(&connection));
        connection
    }

    /// How much is in flight.
    pub(crate) fn in_flight(&self) -> InFlight {
        let mut sum = InFlight::default();
        for connection in self.live() {
            sum.connections += 1;
            let tunnels = connection.tunnels.lock();
            for tunnel in tunnels.iter().filter_map(Weak::upgrade) {
                sum.tunnels += 1;
                sum.requests += tunnel.exchanges() as u64;
            }
        }
        sum
    }

    /// What each tunnel holds. Forgets what is gone.
    pub(crate) fn look(&self) -> Vec<Held> {
        let mut held = Vec::new();
        for connection in self.live() {
            let mut tunnels = connection.tunnels.lock();
            tunnels.retain(|tunnel| {
                let Some(tunnel) = tunnel.upgrade() else {
                    return false;
                };
                held.push(Held {
                    identity: connection.identity.clone(),
                    bytes: bytes_of(&tunnel),
                    tunnel,
                });
                true
            });
        }
        let mut identities = self.identities.lock();
        identities.retain(|_, account| Arc::strong_count(account) > 1);
        held
    }

    /// Connections and identities that have too much at work are told to take no more, the others that they may.
    pub(crate) fn bound(&self, held: &[Held], bounds: &Bounds) {
        let identities = by_identity(held);
        for connection in self.live() {
            let sum = identities
                .get(&connection.identity)
                .cloned()
                .unwrap_or_default();
            let tunnels = connection.tunnels.lock();
            let own: usize = tunnels
                .iter()
                .filter_map(Weak::upgrade)
                .map(|tunnel| tunnel.exchanges())
                .sum();
            drop(tunnels);
            connection.share.refuse(
                own >= bounds.exchanges_per_connection
                    || sum.exchanges >= bounds.exchanges_per_identity
                    || sum.bytes >= bounds.fair,
            );
        }
    }

    fn live(&self) -> Vec<Arc<Connection>> {
        let mut live = Vec::new();
        self.connections.lock().retain(|connection| {
            let connection = connection.upgrade();
            live.extend(connection.clone());
            connection.is_some()
        });
        live
    }
}

fn bytes_of(tunnel: &Holder) -> u64 {
    let bytes = tunnel.account().held().saturating_add(tunnel.unread());
    (bytes as u64).saturating_add(tunnel.exchanges() as u64 * EXCHANGE)
}

/// The sums of identities.
pub(crate) fn by_identity(held: &[Held]) -> HashMap<Identity, IdentityHeld> {
    let mut sums: HashMap<Identity, IdentityHeld> = HashMap::new();
    for one in held {
        let sum = sums.entry(one.identity.clone()).or_default();
        sum.bytes += one.bytes;
        sum.exchanges += one.tunnel.exchanges();
    }
    sums
}

/// The tunnels that are to end, so that `excess` bytes get free: the largest of the identity that holds most. A
/// peer that asks for much on many tunnels, or on many connections, is one peer.
pub(crate) fn largest(held: Vec<Held>, excess: u64) -> Vec<Held> {
    let mut candidates: Vec<Held> = held
        .into_iter()
        .filter(|one| one.bytes >= LEAST && !one.tunnel.is_evicted())
        .collect();
    let sums = by_identity(&candidates);
    let Some(identity) = sums
        .iter()
        .max_by_key(|(_, sum)| sum.bytes)
        .map(|(identity, _)| identity)
    else {
        return Vec::new();
    };
    candidates.retain(|one| one.identity == *identity);
    candidates.sort_by_key(|one| std::cmp::Reverse(one.bytes));
    let mut freed = 0;
    candidates
        .into_iter()
        .take_while(|one| {
            let more = freed < excess;
            freed += one.bytes;
            more
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn identity(name: &str) -> Identity {
        Identity::istio("cluster.local", "default", name).unwrap()
    }

    /// A tunnel that holds so many KiB.
    fn tunnel(connection: &Connection, kib: usize) -> (Arc<Holder>, Bytes) {
        let tunnel = connection.tunnel();
        let bytes = tunnel.account().charge(vec![0; kib << 10].into());
        (tunnel, bytes)
    }

    #[test]
    fn the_largest_tunnels_of_the_largest_identity_go_first() {
        let holders = Holders::default();
        // One large tunnel of an honest peer, many middling ones of another over two connections.
        let honest = holders.connection(&identity("honest"));
        let _large = tunnel(&honest, 400);
        let greedy = [0, 1].map(|_| holders.connection(&identity("greedy")));
        let many: Vec<_> = (0..6).map(|n| tunnel(&greedy[n % 2], 100 + n)).collect();
        let _small = tunnel(&greedy[0], 10);
        let sizes = |excess: u64| -> Vec<u64> {
            let victims = largest(holders.look(), excess << 10);
            assert!(victims.iter().all(|v| v.identity == identity("greedy")));
            victims.iter().map(|v| v.bytes >> 10).collect()
        };
        assert_eq!(sizes(150), [105, 104]);
        assert_eq!(sizes(10_000).len(), 6, "never who holds next to nothing");
        many[5].0.evict();
        assert_eq!(sizes(1), [104], "nobody twice");
    }

    #[test]
    fn who_has_too_much_at_work_is_refused_more_and_what_is_gone_is_forgotten() {
        let holders = Holders::default();
        let bounds = Bounds {
            exchanges_per_connection: 3,
            exchanges_per_identity: 4,
            fair: u64::MAX,
        };
        let mine = [0, 1].map(|_| holders.connection(&identity("mine")));
        let other = holders.connection(&identity("other"));
        let (tunnel, second) = (mine[0].tunnel(), mine[1].tunnel());
        let refusing = || {
            holders.bound(&holders.look(), &bounds);
            [&mine[0], &mine[1], &other].map(|c| c.share().is_refusing())
        };
        let mut exchanges = vec![tunnel.exchange(), tunnel.exchange()];
        let in_flight = InFlight {
            connections: 3,
            tunnels: 2,
            requests: 2,
        };
        assert_eq!(holders.in_flight(), in_flight);
        assert_eq!(refusing(), [false; 3]);
        exchanges.push(tunnel.exchange());
        assert_eq!(refusing(), [true, false, false]);
        exchanges.push(second.exchange());
        assert_eq!(refusing(), [true, true, false]);
        exchanges.clear();
        assert_eq!(refusing(), [false; 3]);

        drop((tunnel, second, mine));
        assert!(holders.look().is_empty());
        assert_eq!(holders.live().len(), 1);
        assert_eq!(holders.identities.lock().len(), 1);
    }
}
