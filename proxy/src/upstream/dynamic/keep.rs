//! The life of a host that a stream named: looked up, again when its answer has run out, and forgotten when nobody goes there.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
use waypoint_config::model::cluster::dynamic_forward_proxy::DnsCache;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::endpoint::{Endpoint, EndpointState, Transport};
use waypoint_filters::metrics::{CounterFamily, MetricRegistry};
use waypoint_filters::stream::dynamic_metadata::Metadata;
use waypoint_filters::stream::peer::Peer;

use crate::names::resolver::{Found, LookupError, NameServers};
use crate::upstream::dynamic::allowed::Allowed;
use crate::upstream::dynamic::host::DynamicHost;
use crate::upstream::dynamic::table::HostTable;
use crate::upstream::outside::Outside;

/// Finds the workload at an address.
pub(crate) type Peers = Arc<dyn Fn(IpAddr) -> Option<Arc<Peer>> + Send + Sync>;

/// Lookups at a time, of all clusters; more hosts wait for their turn.
const MAX_LOOKUPS: usize = 64;

/// What looking up takes of the process.
pub(crate) struct Lookups {
    servers: Vec<SocketAddr>,
    /// Made where they are used: their sockets are driven there.
    resolver: OnceLock<NameServers>,
    allowed: Allowed,
    turns: Semaphore,
    peers: Peers,
    ended: Arc<CounterFamily>,
}

/// What is known of a host after a lookup.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    At(Vec<IpAddr>),
    /// That there is nothing to go to is an answer, too.
    Nowhere(&'static str),
    /// What was known before stays.
    Failed(&'static str),
}

impl Lookups {
    pub(crate) fn new(outside: &Outside, peers: Peers, metrics: &MetricRegistry) -> Lookups {
        Lookups {
            servers: outside.dns_servers.clone(),
            resolver: OnceLock::new(),
            allowed: Allowed::new(&outside.near_allowed),
            turns: Semaphore::new(MAX_LOOKUPS),
            peers,
            ended: metrics.counters(
                "waypoint_dynamic_lookups_total",
                "Lookups of hosts that streams named: answered, with addresses; empty, there are none; denied, they lead where names mustn't; failed.",
                &["result"],
            ),
        }
    }

    /// Looks a host up; the outcome, and how long it holds.
    async fn look_up(&self, host: &DynamicHost, how: &DnsCache) -> (Outcome, Duration) {
        let found = match host.address {
            Some(address) => Ok(Found {
                addresses: vec![address],
                ttl: Duration::ZERO,
                is_known: true,
            }),
            None => {
                let _turn = self.turns.acquire().await;
                let resolver = self
                    .resolver
                    .get_or_init(|| NameServers::new(&self.servers));
                let asking = resolver.look_up(&host.name, how.family, how.query_timeout);
                asking.await
            }
        };
        let ttl = found.as_ref().map_or(Duration::ZERO, |found| found.ttl);
        let outcome = self.outcome(host, how, found);
        let result = match &outcome {
            Outcome::At(_) => "answered",
            Outcome::Nowhere(DENIED) => "denied",
            Outcome::Nowhere(_) => "empty",
            Outcome::Failed(_) => "failed",
        };
        self.ended.with(&[result.into()]).add(1);
        (outcome, ttl)
    }

    fn outcome(
        &self,
        host: &DynamicHost,
        how: &DnsCache,
        found: Result<Found, LookupError>,
    ) -> Outcome {
        let name = &*host.name;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(host = name, %error, "a host can't be looked up");
                return Outcome::Failed(match error {
                    LookupError::Timeout => "resolve_timeout",
                    LookupError::Server(_) => "cares_failure:DNS_server_returned_general_failure",
                    LookupError::Other(_) => "cares_failure:Could_not_contact_DNS_servers",
                });
            }
        };
        if found.addresses.is_empty() {
            return Outcome::Nowhere(match found.is_known {
                false => "cares_norecords:Domain_name_not_found",
                true => "cares_norecords:DNS_server_returned_answer_with_no_data",
            });
        }
        let lets = |address: &IpAddr| self.allowed.lets(*address) && how.lets(*address);
        let allowed: Vec<IpAddr> = found.addresses.iter().copied().filter(lets).collect();
        if allowed.is_empty() {
            tracing::warn!(host = name, addresses = ?found.addresses, "a name leads where names mustn't");
            return Outcome::Nowhere(DENIED);
        }
        Outcome::At(allowed)
    }
}

/// All of a name's addresses are near, or filtered.
const DENIED: &str = "addresses_not_allowed";

/// Keeps a host until it is forgotten.
pub(crate) async fn keep(lookups: Arc<Lookups>, slot: Weak<ClusterSlot>, host: Arc<DynamicHost>) {
    let mut failures = 0;
    while let Some(how) = how(&slot) {
        let (outcome, ttl) = lookups.look_up(&host, &how).await;
        let pause = match &outcome {
            Outcome::At(_) => how.pause(ttl),
            Outcome::Nowhere(_) | Outcome::Failed(_) => how.pause_after(failures + 1),
        };
        failures = match &outcome {
            Outcome::At(_) => 0,
            Outcome::Nowhere(_) | Outcome::Failed(_) => failures.saturating_add(1),
        };
        if take(&host, outcome, &lookups.peers)
            && let Some(slot) = slot.upgrade()
        {
            HostTable::of(&slot).publish(&slot);
        }
        if !is_wanted_after(&host, pause, how.host_ttl).await {
            break;
        }
    }
    if let Some(slot) = slot.upgrade() {
        let table = HostTable::of(&slot);
        table.remove(&host);
        table.publish(&slot);
    }
}

/// How the cluster says that hosts are looked up; `None`: it says no such thing any more.
fn how(slot: &Weak<ClusterSlot>) -> Option<DnsCache> {
    let cluster = slot.upgrade()?.cluster()?;
    cluster.dynamic().map(|(cache, _)| cache.clone())
}

/// Waits until the next lookup is due. `false`: nobody went there for `ttl`, or it was forgotten.
async fn is_wanted_after(host: &DynamicHost, pause: Duration, ttl: Duration) -> bool {
    let due = tokio::time::Instant::now() + pause;
    loop {
        let left = ttl.saturating_sub(host.idle());
        if left.is_zero() {
            return false;
        }
        let unused = tokio::time::Instant::now() + left;
        tokio::select! {
            () = host.forgotten() => return false,
            () = tokio::time::sleep_until(due.min(unused)) => {}
        }
        if tokio::time::Instant::now() >= due {
            return true;
        }
    }
}

/// Takes a lookup's outcome; says whether the host is somewhere else now.
fn take(host: &DynamicHost, outcome: Outcome, peers: &Peers) -> bool {
    let before = host.endpoint();
    let addresses = match (outcome, &before) {
        (Outcome::At(addresses), _) => addresses,
        // A server that fails, or knows nothing any more, takes nothing away: as with Envoy.
        (Outcome::Failed(_) | Outcome::Nowhere(_), Some(_)) => return false,
        (Outcome::Failed(reason) | Outcome::Nowhere(reason), None) => {
            host.is_nowhere(reason);
            return false;
        }
    };
    let mut at: Vec<SocketAddr> = addresses
        .iter()
        .map(|ip| SocketAddr::new(*ip, host.port))
        .collect();
    let mut state = None;
    if let Some(before) = &before {
        // Servers turn the order round; that is no change.
        if let Some(place) = at.iter().position(|address| *address == before.address) {
            at.swap(0, place);
            state = Some(before.state.clone());
        }
        let mut others: Vec<_> = at.iter().skip(1).collect();
        let mut known: Vec<_> = before.additional.iter().collect();
        others.sort_unstable();
        known.sort_unstable();
        if state.is_some() && others == known {
            return false;
        }
    }
    let Some((address, additional)) = at.split_first() else {
        return false;
    };
    host.is_at(Arc::new(Endpoint {
        address: *address,
        additional: additional.into(),
        transport: Transport::Plain,
        healthy: true,
        weight: 1,
        metadata: Metadata::default(),
        peer: peers(address.ip()),
        check: None,
        state: state.unwrap_or_else(|| Arc::new(EndpointState::default())),
    }));
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::upstream::dynamic::wanted::Wanted;

    use super::*;

    fn host() -> DynamicHost {
        let wanted = Wanted::parse("a.test", 80).unwrap();
        DynamicHost::new(&wanted.key(), &wanted)
    }

    fn at(last: &[u8]) -> Outcome {
        Outcome::At(last.iter().map(|n| [10, 0, 0, *n].into()).collect())
    }

    fn addresses(host: &DynamicHost) -> Vec<String> {
        let endpoint = host.endpoint().unwrap();
        let all = std::iter::once(&endpoint.address).chain(&*endpoint.additional);
        all.map(ToString::to_string).collect()
    }

    #[test]
    fn a_host_stays_where_it_is_as_long_as_that_is_one_of_its_addresses() {
        let (host, peers): (_, Peers) = (host(), Arc::new(|_| None));
        assert!(take(&host, at(&[1, 2]), &peers));
        let first = host.endpoint().unwrap();
        assert!(!take(&host, at(&[2, 1]), &peers));
        assert!(take(&host, at(&[3, 1]), &peers));
        assert_eq!(addresses(&host), ["10.0.0.1:80", "10.0.0.3:80"]);
        assert!(Arc::ptr_eq(&host.endpoint().unwrap().state, &first.state));
        assert!(take(&host, at(&[4]), &peers));
        assert_eq!(addresses(&host), ["10.0.0.4:80"]);
        assert!(!Arc::ptr_eq(&host.endpoint().unwrap().state, &first.state));
    }

    #[test]
    fn what_was_found_once_is_not_lost_to_a_server_that_fails() {
        let (host, peers): (_, Peers) = (host(), Arc::new(|_| None));
        take(&host, Outcome::Failed("resolve_timeout"), &peers);
        assert_eq!(host.nowhere().as_deref(), Some("resolve_timeout"));
        assert!(take(&host, at(&[1]), &peers));
        assert_eq!(host.nowhere(), None);
        for outcome in [Outcome::Failed("x"), Outcome::Nowhere("y")] {
            assert!(!take(&host, outcome, &peers));
        }
        assert_eq!(addresses(&host), ["10.0.0.1:80"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_nobody_goes_to_is_forgotten() {
        let host = host();
        let seconds = Duration::from_secs;
        assert!(is_wanted_after(&host, Duration::from_millis(1), seconds(300)).await);
        assert!(!is_wanted_after(&host, seconds(3600), Duration::ZERO).await);
        host.forget();
        assert!(!is_wanted_after(&host, seconds(3600), seconds(300)).await);
    }
}
