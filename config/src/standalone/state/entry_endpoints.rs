//! The endpoints of a ServiceEntry: its own, those that it selects, or its host, which is looked up. And machines, WorkloadEntries,
//! that a Service selects.

use std::collections::BTreeMap;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::core::pod::{Pod, canonical};
use crate::standalone::kinds::core::port::TargetPort;
use crate::standalone::kinds::core::service::{Port, Service};
use crate::standalone::kinds::istio::service_entry::ServiceEntry;
use crate::standalone::kinds::istio::workload_address::WorkloadAddress;
use crate::standalone::kinds::istio::workload_entry::EntryEndpoint;
use crate::standalone::state::cluster_state::ClusterState;
use crate::standalone::state::mesh_endpoint::{
    Locality, MeshEndpoint, drains, pod_endpoint, workload,
};

/// Annotation and label of what takes HBONE.
const REDIRECTION: &str = "ambient.istio.io/redirection";
const TUNNEL: &str = "networking.istio.io/tunnel";

/// Those behind a port of this name and number.
pub(super) fn entry_endpoints(
    state: &ClusterState,
    entry: &Object<ServiceEntry>,
    hostname: &str,
    (port_name, number): (&str, u16),
) -> Vec<MeshEndpoint> {
    let (name, namespace) = (&entry.meta.name, &entry.meta.namespace);
    let mut ports = entry.spec.ports.iter();
    let target = ports.find(|own| own.number == number);
    let target = target.map_or(number, |own| own.target);
    let looks_up = entry.spec.resolution.looks_up();
    let port_of = |found: &EntryEndpoint| found.ports.get(port_name).copied().unwrap_or(target);
    if entry.spec.selector.is_some() {
        let entries = selected_entries(state, entry).filter(|found| {
            !drains(&found.spec.labels) && (looks_up || found.spec.address.ip().is_some())
        });
        let entries = entries.map(|found| machine(found, port_of(&found.spec)));
        let pods =
            selected_pods(state, entry).filter(|pod| pod.spec.ready && !drains(&pod.meta.labels));
        let pods = pods.filter_map(|pod| {
            let address = pod.spec.addresses.first()?;
            let found = pod_endpoint(state, Some(pod), *address, target, true);
            Some(MeshEndpoint {
                healthy: None,
                ..found
            })
        });
        return entries.chain(pods).collect();
    }
    if looks_up && entry.spec.endpoints.is_empty() {
        // The host itself, which is no workload of a number.
        return vec![MeshEndpoint {
            address: WorkloadAddress::of(hostname),
            port: target,
            healthy: None,
            weight: 1,
            locality: Locality::default(),
            hbone: false,
            labels: BTreeMap::new(),
            node: String::new(),
            namespace: namespace.clone(),
            tls_mode: None,
            workload: Some(workload(name, namespace, name, "")),
        }];
    }
    let own = entry.spec.endpoints.iter();
    let own = own.filter(|endpoint| !drains(&endpoint.labels));
    own.map(|found| {
        let own = format!("{name}-{}", found.index);
        endpoint(found, (&own, namespace), port_of(found), false)
    })
    .collect()
}

/// The machines that a Service selects, behind one port. As with istiod they stand beside its pods, by their addresses.
pub(super) fn machine_endpoints(
    state: &ClusterState,
    service: &Object<Service>,
    port: &Port,
) -> Vec<MeshEndpoint> {
    let port_of = |found: &EntryEndpoint| match &port.target {
        TargetPort::Number(number) => {
            let named = found.ports.get(&port.name).copied();
            Some(named.unwrap_or(*number))
        }
        TargetPort::Name(name) => found.ports.get(name).copied(),
    };
    let found = machines_of(state, service);
    let found =
        found.filter(|found| !drains(&found.spec.labels) && found.spec.address.ip().is_some());
    found
        .filter_map(|found| Some(machine(found, port_of(&found.spec)?)))
        .collect()
}

/// The WorkloadEntries that a Service with addresses of its own selects.
pub fn machines_of<'s>(
    state: &'s ClusterState,
    service: &'s Object<Service>,
) -> impl Iterator<Item = &'s Object<EntryEndpoint>> {
    let selector = &service.spec.selector;
    let all = state.workload_entries.values();
    all.filter(move |found| {
        let has = |(name, value): (&String, &String)| found.spec.labels.get(name) == Some(value);
        found.meta.namespace == service.meta.namespace
            && !service.spec.headless
            && !service.spec.external_name
            && !selector.is_empty()
            && selector.iter().all(has)
    })
}

fn machine(found: &Object<EntryEndpoint>, port: u16) -> MeshEndpoint {
    let mut tunnels = found.spec.labels.get(TUNNEL).into_iter();
    let hbone = found.meta.annotation(REDIRECTION) == Some("enabled")
        || tunnels.any(|tunnel| tunnel == "http");
    let own = (found.meta.name.as_str(), found.meta.namespace.as_str());
    endpoint(&found.spec, own, port, hbone)
}

fn endpoint(
    found: &EntryEndpoint,
    (own, namespace): (&str, &str),
    port: u16,
    hbone: bool,
) -> MeshEndpoint {
    let (canonical_name, revision) = canonical(&found.labels, own);
    MeshEndpoint {
        address: found.address.clone(),
        port,
        healthy: None,
        weight: found.weight,
        locality: locality(&found.locality),
        hbone,
        labels: found.labels.clone(),
        node: String::new(),
        namespace: namespace.to_owned(),
        tls_mode: found.tls_mode().map(str::to_owned),
        workload: Some(workload(own, namespace, canonical_name, revision)),
    }
}

fn locality(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let (region, zone, sub_zone) = (next(), next(), next());
    Locality {
        region,
        zone,
        sub_zone,
    }
}

fn selects(
    entry: &Object<ServiceEntry>,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    let selector = entry
        .spec
        .selector
        .iter()
        .find(|selector| !selector.is_empty());
    namespace == entry.meta.namespace
        && selector.is_some_and(|selector| {
            let mut wanted = selector.iter();
            wanted.all(|(name, value)| labels.get(name) == Some(value))
        })
}

/// The WorkloadEntries that an entry selects.
pub fn selected_entries<'s>(
    state: &'s ClusterState,
    entry: &Object<ServiceEntry>,
) -> impl Iterator<Item = &'s Object<EntryEndpoint>> {
    let all = state.workload_entries.values();
    all.filter(move |found| selects(entry, &found.meta.namespace, &found.spec.labels))
}

fn selected_pods<'s>(
    state: &'s ClusterState,
    entry: &Object<ServiceEntry>,
) -> impl Iterator<Item = &'s Object<Pod>> {
    let all = state.pods.values();
    all.filter(move |pod| {
        !pod.spec.terminal && selects(entry, &pod.meta.namespace, &pod.meta.labels)
    })
}
