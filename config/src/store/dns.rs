//! Clusters whose endpoints have names, and what is known of the names.
//!
//! A failed lookup changes nothing: what was answered last stays. That there is no such name empties a strict
//! cluster, and not a logical one. Answers live as long as the name stands in
//! the cluster, so that a change to anything else in it needs no new lookup.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypoint_filters::xds::rejected::Refusal;

use crate::model::balance::endpoint_set::EndpointSet;
use crate::model::cluster::dns::{self, Answer, DnsDiscovery, DnsKind, Question};
use crate::model::endpoint::PeerAt;

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
        let anywhere = dns::resolved(assignment, how.kind, |_| vec![Ipv4Addr::UNSPECIFIED.into()]);
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
        if addresses.is_empty() && named.how.kind == DnsKind::Logical {
            // As with Envoy: the one host doesn't vanish.
            return first;
        }
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
        let assignment = dns::resolved(&named.assignment, named.how.kind, addresses);
        EndpointSet::from_proto(&assignment, previous, peer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::config::core::v3::{
        Address, SocketAddress, address, socket_address::PortSpecifier,
    };
    use envoy_types::pb::envoy::config::endpoint::v3::{
        Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
    };
    use envoy_types::pb::google::protobuf::UInt32Value;

    use super::*;
    use crate::model::cluster::dns::LookupFamily;

    /// Endpoints on port 80, with weights from 1.
    fn assignment(addresses: &[&str]) -> ClusterLoadAssignment {
        let endpoint = |(address, weight): (&&str, u32)| {
            let socket = SocketAddress {
                address: (*address).to_owned(),
                port_specifier: Some(PortSpecifier::PortValue(80)),
                ..SocketAddress::default()
            };
            let endpoint = Endpoint {
                address: Some(Address {
                    address: Some(address::Address::SocketAddress(socket)),
                }),
                ..Endpoint::default()
            };
            LbEndpoint {
                host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
                load_balancing_weight: Some(UInt32Value { value: weight }),
                ..LbEndpoint::default()
            }
        };
        ClusterLoadAssignment {
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: addresses.iter().zip(1..).map(endpoint).collect(),
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }
    }

    fn how(family: LookupFamily) -> DnsDiscovery {
        DnsDiscovery::from_proto(DnsKind::Strict, family, &Cluster::default()).unwrap()
    }

    fn addresses(last: &[u8]) -> Answer {
        Answer::Addresses {
            addresses: last.iter().map(|n| [10, 0, 0, *n].into()).collect(),
            ttl: Duration::ZERO,
        }
    }

    /// Addresses with weights.
    fn endpoints(table: &DnsTable) -> Vec<(String, u32)> {
        let set = table.endpoints("c", &EndpointSet::default(), &|_| None);
        let of = |e: &Arc<crate::model::endpoint::Endpoint>| (e.address.to_string(), e.weight);
        set.unwrap().iter().map(of).collect()
    }

    fn named(addresses: &[&str]) -> DnsTable {
        let mut table = DnsTable::default();
        let how = how(LookupFamily::V4);
        table
            .take(&"c".into(), how, &assignment(addresses))
            .unwrap();
        table
    }

    fn question(table: &DnsTable, host: &str) -> Question {
        let questions = table.questions();
        questions.into_iter().find(|q| &*q.host == host).unwrap()
    }

    #[test]
    fn every_address_of_a_name_has_what_its_endpoint_has() {
        let mut table = named(&["a.test", "10.0.0.9", "b.test"]);
        assert_eq!((table.questions().len(), table.untried()), (2, 2));
        assert!(!table.is_known("c"));
        assert!(table.answer(&question(&table, "b.test"), &addresses(&[2, 1])));
        assert!(table.answer(&question(&table, "a.test"), &addresses(&[3])));
        assert_eq!(table.untried(), 0);
        let expected = [
            ("10.0.0.3:80", 1),
            ("10.0.0.9:80", 2),
            ("10.0.0.1:80", 3),
            ("10.0.0.2:80", 3),
        ];
        assert_eq!(endpoints(&table), expected.map(|(a, w)| (a.to_owned(), w)));
    }

    #[test]
    fn only_other_addresses_are_a_change() {
        let mut table = named(&["a.test"]);
        let a = question(&table, "a.test");
        assert!(table.answer(&a, &Answer::Failed), "the first counts anyway");
        assert!(table.is_known("c"));
        assert!(table.answer(&a, &addresses(&[1, 2])));
        assert!(!table.answer(&a, &addresses(&[2, 1])));
        assert!(!table.answer(&a, &Answer::Failed));
        assert_eq!(endpoints(&table).len(), 2);
        assert!(table.answer(&a, &addresses(&[])));
        assert_eq!(endpoints(&table), []);
    }

    #[test]
    fn answers_stay_with_the_name_and_leave_with_the_family() {
        let mut table = named(&["a.test"]);
        let a = question(&table, "a.test");
        table.answer(&a, &addresses(&[1]));
        let mut take = |family, names: &[&str]| {
            let taken = table.take(&"c".into(), how(family), &assignment(names));
            taken.unwrap();
            endpoints(&table).len()
        };
        assert_eq!(take(LookupFamily::V4, &["b.test", "a.test"]), 1);
        assert_eq!(take(LookupFamily::V6, &["b.test", "a.test"]), 0);
        assert!(!table.answer(&a, &addresses(&[1])), "nobody asks that now");
        assert_eq!(endpoints(&table), []);
    }

    #[test]
    fn what_else_is_wrong_with_an_endpoint_is_known_at_once() {
        let mut wrong = assignment(&["a.test"]);
        wrong.endpoints[0].lb_endpoints[0].health_status = 99;
        let mut table = DnsTable::default();
        let refused = table.take(&"c".into(), how(LookupFamily::V4), &wrong);
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("endpoints[0].lb_endpoints[0].health_status"),
            "{text}"
        );
        assert_eq!(table.questions(), []);
    }
}
