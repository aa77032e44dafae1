//! Clusters whose endpoints have names, and what is known of the names.
//!
//! A failed lookup changes nothing: what was answered last stays. Answers live as long as the name stands in
//! the cluster, so that a change to anything else in it needs no new lookup.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypoint_filters::rejected::Refusal;

use crate::model::dns::{self, Answer, DnsDiscovery, Question};
use crate::model::endpoint::EndpointSet;
use crate::store::clusters::PeerAt;

/// By the cluster's name.
#[derive(Default)]
pub(crate) struct DnsTable(HashMap<Arc<str>, NamedEndpoints>);

struct NamedEndpoints {
    how: DnsDiscovery,
    assignment: ClusterLoadAssignment,
    names: HashMap<Arc<str>, Known>,
}

/// What is known of a name.
#[derive(Clone, Default)]
struct Known {
    /// Whether a lookup has ended, well or not.
    tried: bool,
    addresses: Vec<IpAddr>,
}

impl DnsTable {
    /// Takes a cluster, or takes it anew. Its endpoints are [`DnsTable::endpoints`]'.
    pub(crate) fn take(
        &mut self,
        cluster: &Arc<str>,
        how: DnsDiscovery,
        assignment: &ClusterLoadAssignment,
    ) -> Result<(), Refusal> {
        // What else is wrong with an endpoint is to be known before its name is.
        let anywhere = dns::resolved(assignment, |_| vec![Ipv4Addr::UNSPECIFIED.into()]);
        EndpointSet::from_proto(&anywhere, &EndpointSet::default(), &|_| None)?;
        let before = self.0.remove(cluster);
        let known = |name: Arc<str>| {
            // Addresses of a family that is no longer asked for are none.
            let before = before
                .as_ref()
                .filter(|b| b.how.family == how.family && b.how.kind == how.kind);
            let known = before.and_then(|before| before.names.get(&name).cloned());
            (name, known.unwrap_or_default())
        };
        let names = dns::names(assignment).into_iter().map(known).collect();
        let named = NamedEndpoints {
            how,
            assignment: assignment.clone(),
            names,
        };
        self.0.insert(cluster.clone(), named);
        Ok(())
    }

    pub(crate) fn remove(&mut self, cluster: &str) -> bool {
        self.0.remove(cluster).is_some()
    }

    pub(crate) fn contains(&self, cluster: &str) -> bool {
        self.0.contains_key(cluster)
    }

    pub(crate) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }

    /// Everything that is to be looked up, again and again.
    pub(crate) fn questions(&self) -> Vec<Question> {
        let of_cluster = |(cluster, named): (&Arc<str>, &NamedEndpoints)| {
            let (cluster, how) = (cluster.clone(), named.how);
            let names: Vec<Arc<str>> = named.names.keys().cloned().collect();
            names.into_iter().map(move |host| Question {
                cluster: cluster.clone(),
                host,
                how,
            })
        };
        self.0.iter().flat_map(of_cluster).collect()
    }

    /// Whether there is anything to make endpoints of; until then, what the cluster had before stays.
    pub(crate) fn is_known(&self, cluster: &str) -> bool {
        let names = self.0.get(cluster).map(|named| &named.names);
        names.is_none_or(|names| names.is_empty() || names.values().any(|known| known.tried))
    }

    /// How many names have not been looked up yet.
    pub(crate) fn untried(&self) -> usize {
        let names = self.0.values().flat_map(|named| named.names.values());
        names.filter(|known| !known.tried).count()
    }

    /// Takes an answer; says whether it changes the cluster's endpoints.
    pub(crate) fn answer(&mut self, question: &Question, answer: &Answer) -> bool {
        let Some(named) = self.0.get_mut(&question.cluster) else {
            return false;
        };
        let Some(known) = named.names.get_mut(&question.host) else {
            return false;
        };
        if named.how != question.how {
            return false;
        }
        let first = !std::mem::replace(&mut known.tried, true);
        let Answer::Addresses { addresses, .. } = answer else {
            return first;
        };
        let addresses = named.how.usable(addresses);
        let changed = known.addresses != addresses;
        known.addresses = addresses;
        first || changed
    }

    /// The endpoints of a cluster at the addresses that are known.
    pub(crate) fn endpoints(
        &self,
        cluster: &str,
        previous: &EndpointSet,
        peer: PeerAt<'_>,
    ) -> Result<EndpointSet, Refusal> {
        let Some(named) = self.0.get(cluster) else {
            return Ok(EndpointSet::default());
        };
        let addresses = |name: &str| {
            let known = named.names.get(name);
            known.map(|k| k.addresses.clone()).unwrap_or_default()
        };
        let assignment = dns::resolved(&named.assignment, addresses);
        EndpointSet::from_proto(&assignment, previous, peer)
    }
}
