//! Load balancing: which endpoint of a cluster gets the next request.
//!
//! Pure: the caller brings the random numbers. First a priority is chosen, then, where the cluster says so, a
//! locality in it, both by the shares that the set of endpoints has computed; then the policy has its say.
//! Least request compares `choice_count` random endpoints by requests in flight. With unequal weights there
//! is one draw, as in Envoy: shares go by weight per request in flight, so that at rest they are the weights.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use waypoint_config::model::cluster::Cluster;
use waypoint_config::model::endpoint::{Endpoint, EndpointSet};
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
    let hosts = endpoints.hosts();
    let (priority, panics) = hosts.priority(cluster.healthy_panic_threshold, random())?;
    let candidates = if panics {
        priority.all()
    } else if cluster.locality_weighted {
        priority.healthy_of_locality(random())
    } else {
        priority.healthy()
    };
    let equal_weights = candidates.equal_weights;
    let chosen = match (cluster.lb_policy, candidates.endpoints) {
        (_, []) => return None,
        (_, [only]) => only,
        (LbPolicy::LeastRequest { choice_count }, many) => {
            least_request(many, choice_count, equal_weights, random)?
        }
        (LbPolicy::RoundRobin | LbPolicy::Random | LbPolicy::ClusterProvided, many) => {
            weighted_random(many, equal_weights, random)?
        }
    };
    Some(chosen.clone())
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
            locality_weighted: false,
            tcp_keepalive: None,
            thresholds: None,
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

    #[test]
    fn a_locality_is_chosen_first_and_a_retry_avoids_tried_hosts_within_that() {
        let near = (0..4).map(|i| endpoint(i, true, 1)).collect();
        let far = vec![endpoint(100, true, 1), endpoint(101, true, 3)];
        let locality = |weight, endpoints| Locality {
            weight,
            endpoints,
            ..Locality::default()
        };
        let set = EndpointSet::new(vec![vec![locality(1, near), locality(3, far)]]);
        let mut random = counter();
        let mut cluster = cluster(LbPolicy::Random);
        let mut share = |cluster: &Cluster, ports: &[u16], tried: &[SocketAddr], attempts| {
            let chosen =
                (0..4000).filter_map(|_| choose(cluster, &set, &mut random, tried, attempts));
            chosen.filter(|e| ports.contains(&e.address.port())).count()
        };
        let far = [100, 101];
        // One set: weights 4 of 8.
        let one = share(&cluster, &far, &[], 0);
        assert!((1850..2150).contains(&one), "a half: {one}");
        cluster.locality_weighted = true;
        let weighted = share(&cluster, &far, &[], 0);
        assert!(
            (2880..3120).contains(&weighted),
            "three quarters: {weighted}"
        );
        let heavy = share(&cluster, &[101], &[], 0);
        assert!(
            (2130..2370).contains(&heavy),
            "three quarters of that: {heavy}"
        );
        let tried = [([10, 0, 0, 1], 101).into()];
        let again = share(&cluster, &[101], &tried, 5);
        assert!(again < 200, "9/16 to the sixth power: {again}");
    }

    #[test]
    fn a_panic_uses_all_endpoints_whatever_their_locality_weighs() {
        let endpoints = vec![
            endpoint(1, true, 1),
            endpoint(2, false, 1),
            endpoint(3, false, 1),
        ];
        let set = set(vec![endpoints]);
        let mut random = counter();
        let mut cluster = cluster(LbPolicy::LeastRequest { choice_count: 2 });
        cluster.locality_weighted = true;
        let mut healthy = |threshold| {
            cluster.healthy_panic_threshold = threshold;
            let chosen = (0..300).filter_map(|_| choose(&cluster, &set, &mut random, &[], 0));
            chosen.filter(|e| e.healthy).count()
        };
        assert_eq!(healthy(0.0), 300);
        assert!((60..140).contains(&healthy(50.0)));
    }
}
