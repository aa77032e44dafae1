//! Load balancing: which endpoint of a cluster gets the next request.
//!
//! Pure: the caller brings the random numbers. Priorities spill as in Envoy: a priority takes
//! 1.4 times its share of healthy endpoints, the rest goes to the next one
//! (`overprovisioning_factor` 140).
//! Least request compares `choice_count` random endpoints by requests in flight. With unequal weights there
//! is one draw, as in Envoy: shares go by weight per request in flight, so that at rest they are the weights.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::endpoint::{Endpoint, EndpointSet, PriorityHosts};
use waypoint_config::model::load_balancing::LbPolicy;

/// Chooses an endpoint; `None`: there is no healthy one (`UH`). `tried` is avoided where the retry
/// policy says so, for at most `attempts` further choices.
pub(crate) fn choose(
    cluster: &Cluster,
    endpoints: &EndpointSet,
    random: &mut impl FnMut() -> u64,
    tried: &[SocketAddr],
    attempts: u32,
) -> Option<Arc<Endpoint>> {
    let mut chosen = pick(cluster, endpoints, random)?;
    for _ in 0..attempts {
        if !tried.contains(&chosen.address) {
            break;
        }
        chosen = pick(cluster, endpoints, random)?;
    }
    Some(chosen)
}

fn pick(
    cluster: &Cluster,
    endpoints: &EndpointSet,
    random: &mut impl FnMut() -> u64,
) -> Option<Arc<Endpoint>> {
    let hosts = priority(endpoints.hosts(), random)?;
    let candidates = usable(hosts, cluster.healthy_panic_threshold);
    let chosen = match (cluster.lb_policy, candidates) {
        (_, []) => return None,
        (_, [only]) => only,
        (LbPolicy::LeastRequest { choice_count }, many) => {
            least_request(many, choice_count, hosts.equal_weights, random)?
        }
        (LbPolicy::RoundRobin | LbPolicy::Random | LbPolicy::ClusterProvided, many) => {
            weighted_random(many, hosts.equal_weights, random)?
        }
    };
    Some(chosen.clone())
}

/// The healthy endpoints, or all of them where fewer are healthy than the panic threshold wants.
fn usable(hosts: &PriorityHosts, panic_threshold: f64) -> &[Arc<Endpoint>] {
    let percent = hosts.healthy.len() as f64 * 100.0 / hosts.all.len().max(1) as f64;
    if percent < panic_threshold {
        &hosts.all
    } else {
        &hosts.healthy
    }
}

fn priority<'a>(
    priorities: &'a [PriorityHosts],
    random: &mut impl FnMut() -> u64,
) -> Option<&'a PriorityHosts> {
    if let [only] = priorities {
        return Some(only);
    }
    let health: Vec<u64> = priorities
        .iter()
        .map(|p| (140 * p.healthy.len() as u64 / p.all.len().max(1) as u64).min(100))
        .collect();
    let total: u64 = health.iter().sum::<u64>().min(100);
    if total == 0 {
        return priorities.iter().find(|p| !p.all.is_empty());
    }
    let mut point = random() % total;
    for (hosts, share) in priorities.iter().zip(health) {
        if point < share {
            return Some(hosts);
        }
        point -= share;
    }
    priorities.first()
}

fn least_request<'a>(
    hosts: &'a [Arc<Endpoint>],
    choice_count: u32,
    equal_weights: bool,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    let load = |e: &Endpoint| u64::from(e.state.active.load(Ordering::Relaxed)) + 1;
    if !equal_weights {
        // A finer unit than one, so that a busy endpoint keeps a share.
        return by_share(hosts, |e| (weight(e) << 16) / load(e), random);
    }
    let mut best: Option<&Arc<Endpoint>> = None;
    for _ in 0..choice_count.max(1) {
        let candidate = uniform(hosts, random)?;
        if best.is_none_or(|best| load(candidate) < load(best)) {
            best = Some(candidate);
        }
    }
    best
}

fn weighted_random<'a>(
    hosts: &'a [Arc<Endpoint>],
    equal_weights: bool,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    if equal_weights {
        return uniform(hosts, random);
    }
    by_share(hosts, weight, random)
}

fn weight(endpoint: &Endpoint) -> u64 {
    u64::from(endpoint.weight.max(1))
}

fn uniform<'a>(
    hosts: &'a [Arc<Endpoint>],
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    hosts.get((random() % hosts.len().max(1) as u64) as usize)
}

fn by_share<'a>(
    hosts: &'a [Arc<Endpoint>],
    share: impl Fn(&Endpoint) -> u64,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    let total = hosts
        .iter()
        .fold(0u64, |sum, e| sum.saturating_add(share(e)));
    let mut point = random() % total.max(1);
    let chosen = hosts.iter().find(|e| {
        let share = share(e);
        let found = point < share;
        point = point.saturating_sub(share);
        found
    });
    // Shares may shrink meanwhile: requests begin and end.
    chosen.or(hosts.last())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use waypoint_config::model::cluster::Discovery;
    use waypoint_config::model::endpoint::{EndpointState, Locality, Transport};
    use waypoint_config::model::upstream_protocol::UpstreamProtocol;
    use waypoint_filters::dynamic_metadata::Metadata;

    use super::*;

    fn cluster(lb_policy: LbPolicy) -> Cluster {
        Cluster {
            name: "c".into(),
            discovery: Discovery::Static,
            lb_policy,
            connect_timeout: Duration::from_secs(1),
            protocol: UpstreamProtocol::Http1,
            idle_timeout: None,
            max_connection_duration: None,
            max_requests_per_connection: None,
            metadata: Metadata::default(),
            service: None,
            healthy_panic_threshold: 0.0,
            tcp_keepalive: None,
        }
    }

    fn endpoint(port: u16, healthy: bool, weight: u32) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            address: ([10, 0, 0, 1], port).into(),
            transport: Transport::Plain,
            healthy,
            weight,
            metadata: Metadata::default(),
            peer: None,
            state: Arc::new(EndpointState::default()),
        })
    }

    fn set(priorities: Vec<Vec<Arc<Endpoint>>>) -> EndpointSet {
        EndpointSet::new(
            priorities
                .into_iter()
                .map(|endpoints| {
                    vec![Locality {
                        endpoints,
                        ..Locality::default()
                    }]
                })
                .collect(),
        )
    }

    fn counter() -> impl FnMut() -> u64 {
        let mut n = 0u64;
        move || {
            n = n
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            n >> 33
        }
    }

    #[test]
    fn least_request_avoids_the_loaded_endpoint() {
        let (a, b) = (endpoint(1, true, 1), endpoint(2, true, 1));
        a.state.active.store(10, Ordering::Relaxed);
        let set = set(vec![vec![a, b]]);
        let mut random = counter();
        let cluster = cluster(LbPolicy::LeastRequest { choice_count: 2 });
        let loaded = (0..1000)
            .filter(|_| {
                choose(&cluster, &set, &mut random, &[], 0)
                    .unwrap()
                    .address
                    .port()
                    == 1
            })
            .count();
        assert!(
            (150..350).contains(&loaded),
            "only when drawn twice: {loaded}"
        );
    }

    #[test]
    fn least_request_shares_by_weight_and_by_load() {
        let (light, heavy) = (endpoint(1, true, 1), endpoint(2, true, 3));
        let set = set(vec![vec![light, heavy.clone()]]);
        let mut random = counter();
        let cluster = cluster(LbPolicy::LeastRequest { choice_count: 2 });
        let mut of_light = || {
            let chosen = (0..4000).filter_map(|_| choose(&cluster, &set, &mut random, &[], 0));
            chosen.filter(|e| e.address.port() == 1).count()
        };
        let at_rest = of_light();
        assert!((900..1100).contains(&at_rest), "a quarter: {at_rest}");
        heavy.state.active.store(2, Ordering::Relaxed);
        let loaded = of_light();
        assert!((1900..2100).contains(&loaded), "a half: {loaded}");
    }

    #[test]
    fn unhealthy_endpoints_get_nothing_and_none_left_is_none() {
        let set1 = set(vec![vec![endpoint(1, false, 1), endpoint(2, true, 1)]]);
        let mut random = counter();
        let cluster = cluster(LbPolicy::Random);
        for _ in 0..50 {
            assert_eq!(
                choose(&cluster, &set1, &mut random, &[], 0)
                    .unwrap()
                    .address
                    .port(),
                2
            );
        }
        let none = set(vec![vec![endpoint(1, false, 1)]]);
        assert!(choose(&cluster, &none, &mut random, &[], 0).is_none());
        assert!(choose(&cluster, &EndpointSet::default(), &mut random, &[], 0).is_none());
    }

    #[test]
    fn a_failing_priority_spills_to_the_next() {
        let first: Vec<_> = (0..10).map(|i| endpoint(i, i < 5, 1)).collect();
        let set = set(vec![first, vec![endpoint(100, true, 1)]]);
        let mut random = counter();
        let cluster = cluster(LbPolicy::Random);
        let spilled = (0..1000)
            .filter(|_| {
                choose(&cluster, &set, &mut random, &[], 0)
                    .unwrap()
                    .address
                    .port()
                    == 100
            })
            .count();
        assert!((230..370).contains(&spilled), "30 % expected: {spilled}");
    }

    #[test]
    fn tried_hosts_are_avoided() {
        let set = set(vec![vec![endpoint(1, true, 1), endpoint(2, true, 1)]]);
        let mut random = counter();
        let cluster = cluster(LbPolicy::RoundRobin);
        let tried = [([10, 0, 0, 1], 1).into()];
        let again = (0..200)
            .filter(|_| {
                choose(&cluster, &set, &mut random, &tried, 5)
                    .unwrap()
                    .address
                    .port()
                    == 1
            })
            .count();
        assert!(again < 15, "one in 64: {again}");
    }
}
