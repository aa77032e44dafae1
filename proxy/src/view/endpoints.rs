//! Clusters and their endpoints: health as configuration says it, and answers and checks do; who was ejected, who has work.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::{Value, json};
use waypoint_config::model::balance::policy::LbPolicy;
use waypoint_config::model::cluster::slot::ClusterSlot;
use waypoint_config::model::cluster::{Cluster, Discovery};
use waypoint_config::model::endpoint::{Endpoint, Locality, Transport};
use waypoint_config::model::outlier::Sign;

/// Clusters that are told.
const MAX_CLUSTERS: usize = 5000;
/// Endpoints of all clusters together that are told.
const MAX_ENDPOINTS: usize = 5000;

/// All clusters by name.
pub(crate) fn endpoints(clusters: &[Arc<ClusterSlot>], now: Instant) -> Value {
    let mut room = MAX_ENDPOINTS;
    let (mut told, mut left_out) = (Vec::new(), 0);
    for slot in clusters {
        let Some(compiled) = slot.cluster() else {
            continue;
        };
        if told.len() == MAX_CLUSTERS {
            left_out += 1;
            continue;
        }
        told.push(cluster(slot, &compiled, &mut room, now));
    }
    json!({"clusters": told, "leftOut": left_out})
}

fn cluster(slot: &ClusterSlot, cluster: &Cluster, room: &mut usize, now: Instant) -> Value {
    let set = slot.endpoints_now();
    let (mut endpoints, mut left_out) = (Vec::new(), 0);
    let (mut healthy, mut all) = (0, 0);
    for (priority, localities) in set.priorities.iter().enumerate() {
        for locality in localities {
            for one in &locality.endpoints {
                all += 1;
                healthy += u64::from(one.is_healthy());
                match room.checked_sub(1) {
                    Some(less) => {
                        *room = less;
                        endpoints.push(endpoint(priority, locality, one, now));
                    }
                    None => left_out += 1,
                }
            }
        }
    }
    let service = cluster.service.as_ref();
    json!({
        "name": &*slot.name,
        "service": service.map(|service| &*service.host),
        "discovery": discovery(&cluster.discovery),
        "balancing": balancing(cluster.balancing.policy),
        "endpoints": endpoints,
        "endpointsLeftOut": left_out,
        "total": all,
        "healthy": healthy,
        "ejections": cluster.outlier_detection.is_some().then(|| ejections(slot)),
    })
}

fn discovery(discovery: &Discovery) -> &'static str {
    match discovery {
        Discovery::Eds { .. } => "EDS",
        Discovery::Static => "STATIC",
        Discovery::Dns(_) => "DNS",
        // Hosts that requests name are looked up for each: the cluster has no list of its own.
        Discovery::Dynamic(_) => "DYNAMIC_DNS",
        Discovery::OriginalDst { .. } => "ORIGINAL_DST",
        Discovery::OriginalDstOverHbone => "ORIGINAL_DST over HBONE",
    }
}

fn balancing(policy: LbPolicy) -> &'static str {
    match policy {
        LbPolicy::RoundRobin => "ROUND_ROBIN",
        LbPolicy::LeastRequest { .. } => "LEAST_REQUEST",
        LbPolicy::Random => "RANDOM",
        LbPolicy::RingHash(_) => "RING_HASH",
        LbPolicy::Maglev { .. } => "MAGLEV",
        LbPolicy::ClusterProvided => "CLUSTER_PROVIDED",
    }
}

/// What outlier detection found: now ejected, ever ejected, by what.
fn ejections(slot: &ClusterSlot) -> Value {
    let outliers = &slot.outliers;
    let by = Sign::ALL.map(|sign| (sign.name(), outliers.of(sign).1));
    json!({
        "active": outliers.active(),
        "total": by.iter().map(|(_, enforced)| enforced).sum::<u64>(),
        "by": by.iter().filter(|(_, n)| *n > 0).map(|(sign, n)| json!({"sign": sign, "ejections": n})).collect::<Vec<_>>(),
    })
}

fn endpoint(priority: usize, locality: &Locality, endpoint: &Endpoint, now: Instant) -> Value {
    let state = &endpoint.state;
    let peer = endpoint.peer.as_deref();
    let place = [&locality.region, &locality.zone, &locality.sub_zone];
    let place: Vec<&str> = place
        .into_iter()
        .map(|part| &**part)
        .filter(|p| !p.is_empty())
        .collect();
    json!({
        "address": endpoint.address.to_string(),
        "hbone": matches!(endpoint.transport, Transport::Hbone { .. }),
        "workload": peer.map(|peer| &*peer.workload),
        "namespace": peer.map(|peer| &*peer.namespace),
        "healthy": endpoint.healthy,
        "ejected": state.monitor.is_ejected(),
        "failsChecks": state.health.is_checked().then(|| state.health.is_failed()),
        "active": state.active.load(Ordering::Relaxed),
        "weight": endpoint.weight,
        "priority": priority,
        "locality": place.join("/"),
        "sinceSeconds": now.saturating_duration_since(state.since).as_secs(),
    })
}
