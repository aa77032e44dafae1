//! Endpoints as clusters have them, wherever they come from, and what is known of where they run.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::core::pod::Pod;
use crate::standalone::kinds::istio::workload_address::WorkloadAddress;
use crate::standalone::state::cluster_state::ClusterState;

/// The cluster's id, as istiod calls a single cluster.
pub const CLUSTER_ID: &str = "Kubernetes";

/// Label of what takes no requests any more.
pub const DRAINING: &str = "istio.io/draining";

/// Where an endpoint runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MeshEndpoint {
    pub address: WorkloadAddress,
    pub port: u16,
    /// `None` where nothing tells; such an endpoint counts as healthy.
    pub healthy: Option<bool>,
    pub weight: u32,
    pub locality: Locality,
    /// Whether it is reached over HBONE.
    pub hbone: bool,
    /// `workload;namespace;canonical name;revision;cluster`, if the workload is known.
    pub workload: Option<String>,
    /// The workload's; empty where nothing is known of it.
    pub namespace: String,
    /// Its own; [`MeshEndpoint::label`] knows those that say where it runs, too.
    pub labels: BTreeMap<String, String>,
    /// Empty where it isn't known.
    pub node: String,
    /// How it takes connections of sidecars, where it says so.
    pub tls_mode: Option<String>,
}

impl MeshEndpoint {
    /// A label, as subsets and failover ask for it.
    pub fn label(&self, name: &str) -> Option<&str> {
        place_label(&self.locality, &self.node, name)
            .or_else(|| self.labels.get(name).map(String::as_str))
    }
}

/// What istiod adds to the labels of a workload: where it runs.
pub fn place_label<'p>(locality: &'p Locality, node: &'p str, name: &str) -> Option<&'p str> {
    let value = match name {
        "topology.kubernetes.io/region" => &locality.region,
        "topology.kubernetes.io/zone" => &locality.zone,
        "topology.istio.io/subzone" => &locality.sub_zone,
        "topology.istio.io/cluster" => CLUSTER_ID,
        "kubernetes.io/hostname" => node,
        _ => "",
    };
    (!value.is_empty()).then_some(value)
}

pub(super) fn pod_endpoint(
    state: &ClusterState,
    pod: Option<&Object<Pod>>,
    address: IpAddr,
    port: u16,
    ready: bool,
) -> MeshEndpoint {
    MeshEndpoint {
        address: WorkloadAddress::Ip(address),
        port,
        healthy: Some(ready),
        weight: 1,
        locality: pod
            .map(|pod| locality(state, &pod.spec))
            .unwrap_or_default(),
        hbone: pod.is_some_and(Object::takes_hbone),
        labels: pod.map(|pod| pod.meta.labels.clone()).unwrap_or_default(),
        node: pod.map(|pod| pod.spec.node.clone()).unwrap_or_default(),
        namespace: pod
            .map(|pod| pod.meta.namespace.clone())
            .unwrap_or_default(),
        tls_mode: pod.and_then(Object::tls_mode).map(str::to_owned),
        workload: pod.map(|pod| {
            let (canonical_name, revision) = pod.canonical();
            workload(
                pod.workload_name(),
                &pod.meta.namespace,
                canonical_name,
                revision,
            )
        }),
    }
}

/// Whether a pod or an endpoint of an entry takes no requests any more.
pub fn drains(labels: &BTreeMap<String, String>) -> bool {
    labels.get(DRAINING).is_some_and(|value| !value.is_empty())
}

/// The name under which an endpoint's metadata knows its workload.
pub(super) fn workload(
    name: &str,
    namespace: &str,
    canonical_name: &str,
    revision: &str,
) -> String {
    let revision = if revision == "latest" { "" } else { revision };
    format!("{name};{namespace};{canonical_name};{revision};{CLUSTER_ID}")
}

/// Where a pod runs: what its node's labels say.
pub fn locality(state: &ClusterState, pod: &Pod) -> Locality {
    let node = state.nodes.get(&pod.node);
    let label = |names: &[&str]| {
        node.and_then(|node| node.first_label(names))
            .unwrap_or_default()
            .to_owned()
    };
    Locality {
        region: label(&[
            "topology.kubernetes.io/region",
            "failure-domain.beta.kubernetes.io/region",
        ]),
        zone: label(&[
            "topology.kubernetes.io/zone",
            "failure-domain.beta.kubernetes.io/zone",
        ]),
        sub_zone: label(&["topology.istio.io/subzone"]),
    }
}
