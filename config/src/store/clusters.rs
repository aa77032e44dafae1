//! Clusters and their endpoints, and the slots through which chains refer to both.
//!
//! Clusters, endpoints and chains come in any order: a slot is there as soon as one of them speaks of it.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypoint_filters::xds::coverage;
use waypoint_filters::xds::rejected::Refusal;

use crate::model::balance::endpoint_set::{CLUSTER_LOAD_ASSIGNMENT, EndpointSet};
use crate::model::cluster::dns::{Answer, Question};
use crate::model::cluster::slot::ClusterSlot;
use crate::model::cluster::tls_checks::unchecked;
use crate::model::cluster::{CLUSTER, Cluster, Discovery};
use crate::model::endpoint::PeerAt;
use crate::resource::check_name;
use crate::store::dns::DnsTable;
use crate::store::health_checks::CheckedTable;
use crate::store::outliers::OutlierTable;
use crate::store::secrets::SecretTable;

#[derive(Default)]
pub(crate) struct ClusterTable {
    slots: RefCell<HashMap<Arc<str>, Arc<ClusterSlot>>>,
    clusters: HashMap<String, Bytes>,
    /// By the assignment's name.
    assignments: HashMap<String, Bytes>,
    /// Clusters whose assignment has another name than they, by that name. istiod gives both the same.
    renamed: HashMap<String, BTreeSet<String>>,
    pub(crate) dns: DnsTable,
    pub(crate) secrets: SecretTable,
    pub(crate) outliers: OutlierTable,
    pub(crate) checked: CheckedTable,
}

impl ClusterTable {
    /// The slot of a cluster, whether there is such a cluster or not.
    pub(crate) fn slot(&self, name: &str) -> Arc<ClusterSlot> {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.get(name) {
            return slot.clone();
        }
        let slot = Arc::new(ClusterSlot::missing(name));
        slots.insert(slot.name.clone(), slot.clone());
        slot
    }

    /// The assignments that clusters have their endpoints from.
    pub(crate) fn wanted_assignments(&self) -> BTreeSet<String> {
        let slots = self.slots.borrow();
        let of = |name: &String| {
            let cluster = slots.get(name.as_str())?.cluster()?;
            match &cluster.discovery {
                Discovery::Eds { service_name } => Some(service_name.to_string()),
                _ => None,
            }
        };
        self.clusters.keys().filter_map(of).collect()
    }

    /// The secrets that clusters refer to; what was kept for others is forgotten.
    pub(crate) fn wanted_secrets(&self) -> BTreeSet<String> {
        let table = &self.secrets.slots;
        if table.is_empty() {
            return BTreeSet::new();
        }
        let slots = self.slots.borrow();
        let names = self.clusters.keys();
        let clusters = names.filter_map(|name| slots.get(name.as_str())?.cluster());
        let clusters: Vec<Arc<Cluster>> = clusters.collect();
        let sockets = clusters.iter().flat_map(|cluster| cluster.sockets.iter());
        self.secrets
            .retain_of(sockets.filter_map(|socket| socket.tls.as_deref()));
        table.names()
    }

    /// Takes a cluster; says whether anything changed.
    pub(crate) fn take_cluster(
        &mut self,
        name: &str,
        body: &Bytes,
        peer: PeerAt<'_>,
    ) -> Result<bool, Refusal> {
        if self.clusters.get(name) == Some(body) {
            return Ok(false);
        }
        let proto: ClusterProto = coverage::decode(body, &CLUSTER)?;
        check_name(&proto.name, name)?;
        let cluster = Cluster::from_proto(&proto, &self.secrets.slots)?;
        for what in unchecked(&cluster.sockets, cluster.server_name.verified) {
            tracing::warn!(cluster = name, "TLS with its endpoints: {what}");
        }
        let slot = self.slot(name);
        if cluster.discovery == Discovery::Static
            && let Some(assignment) = &proto.load_assignment
            && !is_infrastructure(name)
        {
            let endpoints = EndpointSet::from_proto(assignment, &slot.endpoints(), peer)
                .map_err(|e| e.within("load_assignment"))?;
            slot.set_endpoints(endpoints);
        }
        match (&cluster.discovery, &proto.load_assignment) {
            (Discovery::Dns(how), Some(assignment)) => {
                let taken = self.dns.take(&slot.name, *how, assignment);
                taken.map_err(|e| e.within("load_assignment"))?;
                self.fill_from_answers(name, peer);
            }
            _ => {
                self.dns.remove(name);
            }
        }
        self.forget_assignment(name);
        if let Discovery::Eds { service_name } = &cluster.discovery
            && **service_name != *name
        {
            let names = self.renamed.entry(service_name.to_string()).or_default();
            names.insert(name.to_owned());
            if let Some(body) = self.assignments.get(&**service_name) {
                slot.set_endpoints(endpoints(service_name, body, &slot, peer)?);
            }
        }
        let rules = cluster.outlier_detection.clone();
        self.checked.set(&slot, cluster.health_check.is_some());
        self.secrets.fill_new();
        slot.set_cluster(Some(Arc::new(cluster)));
        self.outliers.set(&slot, rules.as_ref(), Instant::now());
        self.clusters.insert(name.to_owned(), body.clone());
        Ok(true)
    }

    /// Takes an assignment; says whether anything changed.
    pub(crate) fn take_assignment(
        &mut self,
        name: &str,
        body: &Bytes,
        peer: PeerAt<'_>,
    ) -> Result<bool, Refusal> {
        if self.assignments.get(name) == Some(body) {
            return Ok(false);
        }
        self.fill(name, body, peer)?;
        self.assignments.insert(name.to_owned(), body.clone());
        Ok(true)
    }

    /// The clusters that have their endpoints from an assignment, whether they are there yet or not.
    fn clusters_of<'a>(&'a self, assignment: &'a str) -> impl Iterator<Item = &'a str> {
        let renamed = self.renamed.get(assignment).into_iter().flatten();
        renamed.map(String::as_str).chain([assignment])
    }

    /// Puts an assignment's endpoints into the slots that have them from it.
    fn fill(&self, name: &str, body: &Bytes, peer: PeerAt<'_>) -> Result<(), Refusal> {
        for cluster in self.clusters_of(name) {
            let slot = self.slot(cluster);
            let endpoints = endpoints(name, body, &slot, peer)?;
            if !self.dns.contains(cluster) {
                slot.set_endpoints(endpoints);
            }
        }
        Ok(())
    }

    /// Takes what a lookup found; the cluster's slot alone changes, and only if the addresses did.
    pub(crate) fn answer(&mut self, question: &Question, answer: &Answer, peer: PeerAt<'_>) {
        if self.dns.answer(question, answer) {
            self.fill_from_answers(&question.cluster, peer);
        }
    }

    fn fill_from_answers(&self, cluster: &str, peer: PeerAt<'_>) {
        if !self.dns.is_known(cluster) {
            return;
        }
        let slot = self.slot(cluster);
        let made = self.dns.endpoints(cluster, &slot.endpoints(), peer);
        match made {
            Ok(endpoints) => slot.set_endpoints(endpoints),
            // More addresses than a cluster may have.
            Err(refusal) => tracing::error!(cluster, %refusal, "addresses can't be used"),
        }
    }

    /// Endpoints at these addresses learn anew which workload they are.
    pub(crate) fn refresh_peers(&self, addresses: &HashSet<IpAddr>, peer: PeerAt<'_>) {
        let touched = |name: &str| {
            let slot = self.slot(name);
            let endpoints = slot.endpoints();
            endpoints
                .iter()
                .any(|endpoint| addresses.contains(&endpoint.address.ip()))
        };
        for cluster in self.dns.clusters().filter(|name| touched(name)) {
            self.fill_from_answers(cluster, peer);
        }
        for (name, body) in &self.assignments {
            // What was honoured once is again.
            if touched(name)
                && let Err(refusal) = self.fill(name, body, peer)
            {
                tracing::error!(name, %refusal, "endpoints can't be made again");
            }
        }
    }

    /// Says whether there was such a cluster. Its endpoints go with it, unless another has them, too.
    pub(crate) fn remove_cluster(&mut self, name: &str) -> bool {
        if self.clusters.remove(name).is_none() {
            return false;
        }
        self.forget_assignment(name);
        let slot = self.slot(name);
        slot.set_cluster(None);
        self.outliers.set(&slot, None, Instant::now());
        self.checked.set(&slot, false);
        if self.dns.remove(name) {
            slot.set_endpoints(EndpointSet::default());
        }
        if self.assignments.remove(name).is_some() && !self.renamed.contains_key(name) {
            slot.set_endpoints(EndpointSet::default());
        }
        true
    }

    /// Says whether there was such an assignment.
    pub(crate) fn remove_assignment(&mut self, name: &str) -> bool {
        if self.assignments.remove(name).is_none() {
            return false;
        }
        for cluster in self.clusters_of(name) {
            if !self.dns.contains(cluster) {
                self.slot(cluster).set_endpoints(EndpointSet::default());
            }
        }
        true
    }

    fn forget_assignment(&mut self, cluster: &str) {
        self.renamed.retain(|_, clusters| {
            clusters.remove(cluster);
            !clusters.is_empty()
        });
    }

    /// Drops slots that nothing refers to any more.
    pub(crate) fn sweep(&self) {
        self.slots.borrow_mut().retain(|name, slot| {
            Arc::strong_count(slot) > 1
                || self.clusters.contains_key(&**name)
                || self.assignments.contains_key(&**name)
        });
    }
}

fn endpoints(
    name: &str,
    body: &Bytes,
    slot: &ClusterSlot,
    peer: PeerAt<'_>,
) -> Result<EndpointSet, Refusal> {
    let proto: ClusterLoadAssignment = coverage::decode(body, &CLUSTER_LOAD_ASSIGNMENT)?;
    check_name(&proto.cluster_name, name)?;
    EndpointSet::from_proto(&proto, &slot.endpoints(), peer)
}

/// Clusters that only lead from one of Envoy's internal listeners to the next.
fn is_infrastructure(name: &str) -> bool {
    matches!(name, "main_internal" | "inner_connect_originate" | "encap")
}
