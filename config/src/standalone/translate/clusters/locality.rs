//! How near an endpoint must be: priorities and weights of localities, as seen from the waypoint.
//!
//! A rule, the service or MeshConfig says it. Without an `outlierDetection` nothing would ever be left for what is farther off, so that there are no priorities
//! then, but where the service itself prefers some (`trafficDistribution`): there those count that aren't ready. Unless a rule says
//! otherwise, the waypoint's own place comes first.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;

use crate::standalone::kinds::traffic_policy::locality::{Distribute, Failover, LocalityLb};
use crate::standalone::kinds::traffic_policy::{Effective, Nearness};
use crate::standalone::state::mesh_endpoint::{Locality, MeshEndpoint};
use crate::standalone::state::place::Place;
use crate::standalone::translate::proto::packed::uint32;

/// First of a `failoverPriority`, it parts endpoints of other networks from all of this one.
const NETWORK: &str = "topology.istio.io/network";
/// Priorities that the nearness of a locality can have.
const NEARNESSES: usize = 5;
/// What is in another region.
const ELSEWHERE: usize = 3;
/// What is in a region that doesn't stand in for the waypoint's.
const LAST: usize = 4;

/// The endpoints of one locality, and what istiod has made of it so far.
pub(super) struct Group<'e> {
    pub locality: &'e Locality,
    pub endpoints: Vec<&'e MeshEndpoint>,
    pub priority: usize,
    /// `None`: the sum of its endpoints'.
    pub weight: Option<u32>,
}

/// Endpoints by locality, and in the order in which they are to be asked.
pub(super) fn groups<'e>(
    endpoints: &'e [MeshEndpoint],
    policy: &Effective<'_>,
    place: &Place,
) -> Vec<Group<'e>> {
    let mut localities: BTreeMap<&Locality, Vec<&MeshEndpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        localities
            .entry(&endpoint.locality)
            .or_default()
            .push(endpoint);
    }
    let group = |(locality, endpoints)| Group {
        locality,
        endpoints,
        priority: 0,
        weight: None,
    };
    let groups: Vec<Group<'e>> = localities.into_iter().map(group).collect();
    let fallback = LocalityLb::default();
    let setting = match policy.nearness() {
        Nearness::Nobody => return groups,
        Nearness::Service(preferred) => return by_labels(groups, preferred.labels(), place),
        Nearness::Setting(setting) => setting,
        Nearness::Default => &fallback,
    };
    if !setting.distribute.is_empty() {
        return distributed(groups, &setting.distribute, place);
    }
    if policy.outlier_detection.is_none() {
        return groups;
    }
    if setting.failover_priority.is_empty() {
        return by_nearness(groups, &setting.failover, place);
    }
    let groups = by_labels(groups, &setting.failover_priority, place);
    match setting.failover.is_empty() {
        true => groups,
        false => by_nearness(groups, &setting.failover, place),
    }
}

/// Whether a locality is one of those that a rule names.
fn is_in(locality: &Locality, named: &str) -> bool {
    let mut parts = named.splitn(3, '/');
    let mut next = || parts.next().unwrap_or_default();
    let (region, zone, sub_zone) = (next(), next(), next());
    let fits = |named: &str, own: &str| matches!(named, "" | "*") || named == own;
    (region == "*" || region == locality.region)
        && fits(zone, &locality.zone)
        && fits(sub_zone, &locality.sub_zone)
}

/// The first entry that is for the waypoint's place gives every locality its share; the others get nothing.
fn distributed<'e>(
    mut groups: Vec<Group<'e>>,
    all: &[Distribute],
    place: &Place,
) -> Vec<Group<'e>> {
    let mut all = all.iter();
    let Some(own) = all.find(|own| is_in(&place.locality, &own.from)) else {
        return groups;
    };
    let mut left: Vec<usize> = (0..groups.len()).collect();
    for (named, share) in &own.to {
        let fits = |index: &usize| groups.get(*index).is_some_and(|g| is_in(g.locality, named));
        let (taken, rest): (Vec<usize>, Vec<usize>) = left.into_iter().partition(fits);
        left = rest;
        let sum: u64 = taken
            .iter()
            .filter_map(|i| groups.get(*i))
            .map(Group::sum)
            .sum();
        for index in taken {
            if let Some(group) = groups.get_mut(index) {
                let weight = (group.sum() * u64::from(*share)).div_ceil(sum.max(1));
                group.weight = u32::try_from(weight).ok();
            }
        }
    }
    for index in left {
        if let Some(group) = groups.get_mut(index) {
            group.weight = Some(group.own_weight());
            group.endpoints.clear();
        }
    }
    groups
}

fn by_nearness<'e>(
    mut groups: Vec<Group<'e>>,
    failover: &[Failover],
    place: &Place,
) -> Vec<Group<'e>> {
    let own = &place.locality;
    let stand_in = failover.iter().find(|failover| failover.from == own.region);
    for group in &mut groups {
        let far = group.locality;
        let nearness = if own.region != far.region {
            match stand_in {
                Some(failover) if failover.to != far.region => LAST,
                _ => ELSEWHERE,
            }
        } else if own.zone != far.zone {
            2
        } else {
            usize::from(own.sub_zone != far.sub_zone)
        };
        group.priority = group.priority * NEARNESSES + nearness;
    }
    compact(&mut groups);
    groups
}

/// Parts each locality by how many of the labels, in their order, an endpoint shares with the waypoint.
fn by_labels<'e>(
    groups: Vec<Group<'e>>,
    labels: &[impl AsRef<str>],
    place: &Place,
) -> Vec<Group<'e>> {
    if place.labels.is_none() {
        return groups;
    }
    let mut parted = Vec::new();
    for group in groups {
        let mut by_priority: BTreeMap<usize, Vec<&MeshEndpoint>> = BTreeMap::new();
        for endpoint in group.endpoints {
            let priority = distance(endpoint, labels, place);
            by_priority.entry(priority).or_default().push(endpoint);
        }
        parted.extend(by_priority.into_iter().map(|(priority, endpoints)| Group {
            locality: group.locality,
            endpoints,
            priority,
            weight: None,
        }));
    }
    compact(&mut parted);
    parted
}

fn distance(endpoint: &MeshEndpoint, labels: &[impl AsRef<str>], place: &Place) -> usize {
    let mut elsewhere = 0;
    for (index, label) in labels.iter().map(AsRef::as_ref).enumerate() {
        let (name, wanted) = match label.split_once('=') {
            Some((name, wanted)) if !wanted.contains('=') => (name, wanted),
            _ => {
                let name = label.split('=').next().unwrap_or_default();
                (name, place.label(name).unwrap_or_default())
            }
        };
        if endpoint.label(name).unwrap_or_default() == wanted {
            continue;
        }
        if index == 0 && label == NETWORK {
            elsewhere = labels.len();
            continue;
        }
        return elsewhere + labels.len() - index;
    }
    elsewhere
}

/// Priorities without gaps.
fn compact(groups: &mut [Group<'_>]) {
    let mut used: Vec<usize> = groups.iter().map(|group| group.priority).collect();
    used.sort_unstable();
    used.dedup();
    for group in groups {
        group.priority = used.binary_search(&group.priority).unwrap_or(0);
    }
}

impl Group<'_> {
    /// The weight of its endpoints together.
    fn sum(&self) -> u64 {
        self.endpoints
            .iter()
            .map(|endpoint| u64::from(endpoint.weight))
            .sum()
    }

    fn own_weight(&self) -> u32 {
        u32::try_from(self.sum()).unwrap_or(u32::MAX)
    }

    pub(super) fn found(
        &self,
        lb_endpoints: Vec<endpoint::LbEndpoint>,
    ) -> endpoint::LocalityLbEndpoints {
        use envoy_types::pb::envoy::config::core::v3 as core;
        endpoint::LocalityLbEndpoints {
            locality: Some(core::Locality {
                region: self.locality.region.clone(),
                zone: self.locality.zone.clone(),
                sub_zone: self.locality.sub_zone.clone(),
            }),
            lb_endpoints,
            load_balancing_weight: uint32(self.weight.unwrap_or_else(|| self.own_weight())),
            priority: u32::try_from(self.priority).unwrap_or(u32::MAX),
            ..endpoint::LocalityLbEndpoints::default()
        }
    }
}
