//! How a cluster's endpoints share the load: which of them gets the next request.
//!
//! Pure: the caller brings the random numbers. First a priority is chosen, then, where the cluster says so, a
//! locality in it, both by the shares that the set of endpoints has computed ([`hosts`]); then the policy has its say.
//! A policy is a file here, a variant of [`LbPolicy`](policy::LbPolicy) and an arm of [`choose`].

mod consistent_hash;
pub mod endpoint_set;
mod hash_share;
pub mod hosts;
mod least_request;
pub(crate) mod maglev;
mod murmur_hash;
pub mod policy;
pub mod previous_priorities;
mod random;
pub(crate) mod ring_hash;
mod round_robin;
pub(crate) mod runtime_double;
pub mod slow_start;
pub mod xx_hash;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::model::balance::endpoint_set::EndpointSet;
use crate::model::balance::policy::{Balancing, LbPolicy};
use crate::model::balance::slow_start::SlowStart;
use crate::model::endpoint::Endpoint;

/// What a choice depends on beside the endpoints.
pub struct Draw<'a, R> {
    pub random: R,
    /// The request's, where the policy hashes; one that has none is led anywhere.
    pub hash: Option<u64>,
    /// Where new endpoints begin slowly.
    pub now: Option<Instant>,
    /// Endpoints that are avoided, for at most so many further choices.
    pub tried: &'a [SocketAddr],
    pub attempts: u32,
    /// By priority, whether the request's earlier attempts went there and this one is to go elsewhere.
    pub left_out: &'a [bool],
}

/// Chooses an endpoint; `None`: there is no healthy one (`UH`).
pub fn choose<R: FnMut() -> u64>(
    balancing: Balancing,
    endpoints: &EndpointSet,
    mut draw: Draw<'_, R>,
) -> Option<Arc<Endpoint>> {
    if balancing.policy.hashes() {
        return by_hash(balancing, endpoints, draw);
    }
    let (now, left_out) = (draw.now, draw.left_out);
    let mut pick = || pick(balancing, endpoints, now, left_out, &mut draw.random);
    let mut chosen = pick()?;
    for _ in 0..draw.attempts {
        if !draw.tried.contains(&chosen.address) {
            break;
        }
        chosen = pick()?;
    }
    Some(chosen.clone())
}

/// As Envoy: the hash says the priority, too, and further choices stay in it.
fn by_hash<R: FnMut() -> u64>(
    balancing: Balancing,
    endpoints: &EndpointSet,
    mut draw: Draw<'_, R>,
) -> Option<Arc<Endpoint>> {
    let hash = draw.hash.unwrap_or_else(&mut draw.random);
    let hosts = endpoints.hosts();
    let (priority, _) = hosts.priority(balancing.panic_threshold, hash, &[])?;
    if !priority.has_table() {
        // The policy is changing right now.
        return pick(balancing, endpoints, None, &[], &mut draw.random).cloned();
    }
    let mut further = 0;
    loop {
        let chosen = priority.by_hash(hash, further)?;
        if further == draw.attempts || !draw.tried.contains(&chosen.address) {
            return Some(chosen.clone());
        }
        further += 1;
    }
}

fn pick<'a>(
    balancing: Balancing,
    endpoints: &'a EndpointSet,
    now: Option<Instant>,
    left_out: &[bool],
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    let hosts = endpoints.hosts();
    let (priority, panics) = hosts.priority(balancing.panic_threshold, random(), left_out)?;
    let candidates = if panics && balancing.fails_in_panic {
        return None;
    } else if panics {
        priority.all()
    } else if balancing.by_locality {
        priority.healthy_of_locality(random())
    } else {
        priority.healthy()
    };
    let equal = candidates.equal_weights;
    if let (Some(slow), Some(now)) = (balancing.slow_start, now)
        && hosts.has_newer_than(slow.window, now)
    {
        return warming(
            balancing.policy,
            candidates.endpoints,
            equal,
            (slow, now),
            random,
        );
    }
    match (balancing.policy, candidates.endpoints) {
        (_, []) => None,
        (_, [only]) => Some(only),
        (LbPolicy::LeastRequest { choice_count, bias }, many) => {
            least_request::choose(many, equal, choice_count, bias, random)
        }
        (LbPolicy::RoundRobin, many) => candidates.rotation.next(many, random),
        (
            LbPolicy::Random
            | LbPolicy::ClusterProvided
            | LbPolicy::RingHash(_)
            | LbPolicy::Maglev { .. },
            many,
        ) => random::choose(many, equal, random),
    }
}

/// One of endpoints of which some are new.
fn warming<'a>(
    policy: LbPolicy,
    endpoints: &'a [Arc<Endpoint>],
    equal_weights: bool,
    (slow, now): (SlowStart, Instant),
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Endpoint>> {
    let share = |e: &Endpoint| {
        let age = now.saturating_duration_since(e.state.since);
        let whole = match policy {
            LbPolicy::LeastRequest { bias, .. } => least_request::share(e, bias),
            _ => random::weight(e) << 16,
        };
        ((whole as f64 * slow.part(age)) as u64).max(1)
    };
    match endpoints {
        [first, ..] if equal_weights => {
            let most = random::weight(first) << 16;
            random::by_share_up_to(endpoints, most, share, random)
        }
        _ => random::by_share(endpoints, share, random),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::model::endpoint::{EndpointState, Locality};
    use envoy_types::pb::envoy::config::cluster::v3::cluster::SlowStartConfig;
    use envoy_types::pb::google::protobuf::Duration as DurationProto;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::*;

    const LEAST_REQUEST: LbPolicy = LbPolicy::LeastRequest {
        choice_count: 2,
        bias: 1.0,
    };

    fn by(policy: LbPolicy) -> Balancing {
        Balancing {
            policy,
            panic_threshold: 0.0,
            fails_in_panic: false,
            by_locality: false,
            slow_start: None,
        }
    }

    fn endpoint(port: u16, healthy: bool, weight: u32) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            healthy,
            weight,
            ..Endpoint::on_port(port)
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

    fn avoiding<'a, R>(random: R, tried: &'a [SocketAddr], attempts: u32) -> Draw<'a, R> {
        Draw {
            random,
            hash: None,
            now: None,
            tried,
            attempts,
            left_out: &[],
        }
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
        let balancing = by(LEAST_REQUEST);
        let loaded = (0..1000)
            .filter(|_| {
                choose(balancing, &set, avoiding(&mut random, &[], 0))
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
        let balancing = by(LEAST_REQUEST);
        let mut of_light = || {
            let chosen =
                (0..4000).filter_map(|_| choose(balancing, &set, avoiding(&mut random, &[], 0)));
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
        let balancing = by(LbPolicy::Random);
        for _ in 0..50 {
            assert_eq!(
                choose(balancing, &set1, avoiding(&mut random, &[], 0))
                    .unwrap()
                    .address
                    .port(),
                2
            );
        }
        let none = set(vec![vec![endpoint(1, false, 1)]]);
        assert!(choose(balancing, &none, avoiding(&mut random, &[], 0)).is_none());
        assert!(
            choose(
                balancing,
                &EndpointSet::default(),
                avoiding(&mut random, &[], 0)
            )
            .is_none()
        );
    }

    #[test]
    fn a_failing_priority_spills_to_the_next() {
        let first: Vec<_> = (0..10).map(|i| endpoint(i, i < 5, 1)).collect();
        let set = set(vec![first, vec![endpoint(100, true, 1)]]);
        let mut random = counter();
        let balancing = by(LbPolicy::Random);
        let spilled = (0..1000)
            .filter(|_| {
                choose(balancing, &set, avoiding(&mut random, &[], 0))
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
        let balancing = by(LbPolicy::Random);
        let tried = [([10, 0, 0, 1], 1).into()];
        let again = (0..200)
            .filter(|_| {
                choose(balancing, &set, avoiding(&mut random, &tried, 5))
                    .unwrap()
                    .address
                    .port()
                    == 1
            })
            .count();
        assert!(again < 15, "one in 64: {again}");
    }

    #[test]
    fn round_robin_takes_the_healthy_ones_in_turn_and_avoids_tried_ones() {
        let set = set(vec![vec![
            endpoint(1, true, 1),
            endpoint(2, false, 1),
            endpoint(3, true, 1),
            endpoint(4, true, 1),
        ]]);
        let mut random = counter();
        let balancing = by(LbPolicy::RoundRobin);
        let mut ports = |tried: &[SocketAddr]| -> Vec<u16> {
            let next = || choose(balancing, &set, avoiding(&mut random, tried, 5));
            let chosen = std::iter::repeat_with(next).take(6);
            chosen.map(|e| e.unwrap().address.port()).collect()
        };
        let all = ports(&[]);
        assert_eq!(all[..3], all[3..]);
        let mut sorted = all[..3].to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [1, 3, 4]);
        let tried = [([10, 0, 0, 1], 3).into()];
        assert!(ports(&tried).iter().all(|port| *port != 3));
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
        let mut balancing = by(LbPolicy::Random);
        let mut share = |balancing: Balancing, ports: &[u16], tried: &[SocketAddr], attempts| {
            let chosen = (0..4000)
                .filter_map(|_| choose(balancing, &set, avoiding(&mut random, tried, attempts)));
            chosen.filter(|e| ports.contains(&e.address.port())).count()
        };
        let far = [100, 101];
        // One set: weights 4 of 8.
        let one = share(balancing, &far, &[], 0);
        assert!((1850..2150).contains(&one), "a half: {one}");
        balancing.by_locality = true;
        let weighted = share(balancing, &far, &[], 0);
        assert!(
            (2880..3120).contains(&weighted),
            "three quarters: {weighted}"
        );
        let heavy = share(balancing, &[101], &[], 0);
        assert!(
            (2130..2370).contains(&heavy),
            "three quarters of that: {heavy}"
        );
        let tried = [([10, 0, 0, 1], 101).into()];
        let again = share(balancing, &[101], &tried, 5);
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
        let mut balancing = by(LEAST_REQUEST);
        balancing.by_locality = true;
        let mut healthy = |threshold| {
            balancing.panic_threshold = threshold;
            let chosen =
                (0..300).filter_map(|_| choose(balancing, &set, avoiding(&mut random, &[], 0)));
            chosen.filter(|e| e.healthy).count()
        };
        assert_eq!(healthy(0.0), 300);
        assert!((60..140).contains(&healthy(50.0)));
        balancing.fails_in_panic = true;
        balancing.panic_threshold = 50.0;
        assert!(choose(balancing, &set, avoiding(&mut random, &[], 0)).is_none());
    }

    #[test]
    fn requests_in_flight_count_to_the_power_of_the_bias() {
        let (light, heavy) = (endpoint(1, true, 1), endpoint(2, true, 2));
        heavy.state.active.store(3, Ordering::Relaxed);
        let set = set(vec![vec![light, heavy]]);
        let mut random = counter();
        for (bias, expected) in [(0.0, 1333), (0.5, 2000), (1.0, 2667)] {
            let balancing = by(LbPolicy::LeastRequest {
                choice_count: 2,
                bias,
            });
            let chosen =
                (0..4000).filter_map(|_| choose(balancing, &set, avoiding(&mut random, &[], 0)));
            let light = chosen.filter(|e| e.address.port() == 1).count();
            assert!(light.abs_diff(expected) < 120, "{bias}: {light}");
        }
    }

    #[test]
    fn a_new_endpoint_begins_slowly_whoever_takes_turns_or_is_compared() {
        let start = Instant::now();
        let at = |port, seconds| {
            let state = EndpointState {
                since: start + Duration::from_secs(seconds),
                ..EndpointState::default()
            };
            Arc::new(Endpoint {
                state: Arc::new(state),
                ..Endpoint::on_port(port)
            })
        };
        let set = set(vec![vec![at(1, 0), at(2, 0), at(3, 1000)]]);
        let config = SlowStartConfig {
            slow_start_window: Some(DurationProto {
                seconds: 100,
                nanos: 0,
            }),
            ..SlowStartConfig::default()
        };
        let mut random = counter();
        for policy in [LbPolicy::RoundRobin, LEAST_REQUEST] {
            let balancing = Balancing {
                slow_start: SlowStart::from_proto(&config).unwrap(),
                ..by(policy)
            };
            let mut third = |seconds| {
                let chosen = (0..4200).filter_map(|_| {
                    let draw = Draw {
                        now: Some(start + Duration::from_secs(seconds)),
                        ..avoiding(&mut random, &[], 0)
                    };
                    choose(balancing, &set, draw)
                });
                chosen.filter(|e| e.address.port() == 3).count()
            };
            // A tenth, a half, and all of its weight beside two others.
            assert!((150..250).contains(&third(1000)), "{policy:?}");
            assert!((760..920).contains(&third(1050)), "{policy:?}");
            assert!((1280..1520).contains(&third(1100)), "{policy:?}");
        }
    }
}
