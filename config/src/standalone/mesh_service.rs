//! A service of the mesh, whether Kubernetes or a ServiceEntry declares it: host name, addresses, ports and
//! endpoints.
//!
//! Endpoints come from EndpointSlices. A service with a selector and no slice at all, as in manifests that
//! were written by hand, takes the pods that its selector matches: the endpoint controller's part.

use std::net::IpAddr;

use ipnet::IpNet;

use super::cluster_state::ClusterState;
use super::kinds::endpoint_slice::EndpointState;
use super::kinds::pod::{Pod, canonical};
use super::kinds::service::{Protocol, Service, TargetPort};
use super::kinds::service_entry::ServiceEntry;
use super::manifest::{Object, ObjectName};

/// The domain of Kubernetes services.
pub const CLUSTER_DOMAIN: &str = "svc.cluster.local";
/// The cluster's id, as istiod calls a single cluster.
pub const CLUSTER_ID: &str = "Kubernetes";

/// What an address means that stands for "no address".
const DEFAULT_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

#[derive(Clone, Debug)]
pub struct MeshService<'a> {
    pub hostname: String,
    pub namespace: &'a str,
    /// The object's name; for a ServiceEntry the host.
    pub name: String,
    pub addresses: Vec<IpNet>,
    pub ports: Vec<MeshPort>,
    pub source: Source<'a>,
    created: i64,
}

/// What declares a service.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    Service(&'a Object<Service>),
    Entry(&'a Object<ServiceEntry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct MeshPort {
    pub name: String,
    pub number: u16,
    pub protocol: Protocol,
}

/// How a service's endpoints are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Among the endpoints, by load balancing.
    Endpoints,
    /// The address that the client asked for (headless services).
    Passthrough,
    /// Nowhere: an alias.
    None,
}

/// Where an endpoint runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MeshEndpoint {
    pub address: IpAddr,
    pub port: u16,
    /// `None` where nothing tells; such an endpoint counts as healthy.
    pub healthy: Option<bool>,
    pub weight: u32,
    pub locality: Locality,
    /// Whether it is reached over HBONE.
    pub hbone: bool,
    /// `workload;namespace;canonical name;revision;cluster`, if the workload is known.
    pub workload: Option<String>,
}

impl<'a> MeshService<'a> {
    pub fn of_service(service: &'a Object<Service>) -> MeshService<'a> {
        let ports = service.spec.ports.iter().map(|port| MeshPort {
            name: port.name.clone(),
            number: port.number,
            protocol: port.protocol,
        });
        MeshService {
            hostname: format!(
                "{}.{}.{CLUSTER_DOMAIN}",
                service.meta.name, service.meta.namespace
            ),
            namespace: &service.meta.namespace,
            name: service.meta.name.clone(),
            addresses: match service.spec.addresses.as_slice() {
                [] => vec![DEFAULT_ADDRESS.into()],
                addresses => addresses.iter().copied().map(IpNet::from).collect(),
            },
            ports: ports.collect(),
            source: Source::Service(service),
            created: service.meta.created,
        }
    }

    /// One service for each host.
    pub fn of_entry(entry: &'a Object<ServiceEntry>) -> Vec<MeshService<'a>> {
        let service = |host: &String| MeshService {
            hostname: host.clone(),
            namespace: &entry.meta.namespace,
            name: host.clone(),
            addresses: entry.spec.addresses.clone(),
            ports: entry
                .spec
                .ports
                .iter()
                .map(|port| MeshPort {
                    name: port.name.clone(),
                    number: port.number,
                    protocol: port.protocol,
                })
                .collect(),
            source: Source::Entry(entry),
            created: entry.meta.created,
        };
        entry.spec.hosts.iter().map(service).collect()
    }

    /// Sort key: age, name, namespace.
    pub fn order(&self) -> (i64, &str, &str) {
        (self.created, &self.name, self.namespace)
    }

    pub fn resolution(&self) -> Resolution {
        match self.source {
            Source::Service(service) if service.spec.external_name => Resolution::None,
            Source::Service(service) if service.spec.headless => Resolution::Passthrough,
            _ => Resolution::Endpoints,
        }
    }

    pub fn port(&self, number: u16) -> Option<&MeshPort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The endpoints behind one port.
    pub fn endpoints(&self, state: &ClusterState, port: &MeshPort) -> Vec<MeshEndpoint> {
        match self.source {
            Source::Service(service) => service_endpoints(state, service, port),
            Source::Entry(entry) => entry_endpoints(entry, port),
        }
    }
}

fn service_endpoints(
    state: &ClusterState,
    service: &Object<Service>,
    port: &MeshPort,
) -> Vec<MeshEndpoint> {
    let mut found: Vec<MeshEndpoint> = Vec::new();
    let mut has_slices = false;
    let namespace = service.meta.namespace.as_str();
    let slices = state
        .endpoint_slices
        .values()
        .filter(|slice| slice.meta.namespace == namespace);
    for slice in slices.filter(|slice| slice.spec.service.as_ref() == Some(&service.meta.name)) {
        has_slices = true;
        let Some((_, number)) = slice.spec.ports.iter().find(|(name, _)| *name == port.name) else {
            continue;
        };
        for endpoint in &slice.spec.endpoints {
            let (Some(address), false) = (
                endpoint.addresses.first(),
                endpoint.state == EndpointState::Terminating,
            ) else {
                continue;
            };
            let pod = endpoint
                .pod
                .as_ref()
                .and_then(|pod| state.pods.get(&ObjectName::new(namespace, pod)));
            let ready = endpoint.state == EndpointState::Ready;
            push_once(
                &mut found,
                pod_endpoint(state, pod, *address, *number, ready),
            );
        }
    }
    if has_slices || service.spec.selector.is_empty() {
        return found;
    }
    let target = service
        .spec
        .ports
        .iter()
        .find(|p| p.number == port.number)
        .map(|p| &p.target);
    let selector = &service.spec.selector;
    for pod in state
        .pods
        .values()
        .filter(|pod| pod.meta.namespace == namespace && !pod.spec.terminal)
    {
        let selected = selector
            .iter()
            .all(|(name, value)| pod.meta.labels.get(name) == Some(value));
        let number = match target {
            Some(TargetPort::Number(number)) => Some(*number),
            Some(TargetPort::Name(name)) => pod
                .spec
                .ports
                .iter()
                .find(|(named, _)| named == name)
                .map(|(_, number)| *number),
            None => None,
        };
        if let (true, Some(number), Some(address), None) = (
            selected,
            number,
            pod.spec.addresses.first(),
            &pod.meta.deletion_timestamp,
        ) {
            push_once(
                &mut found,
                pod_endpoint(state, Some(pod), *address, number, pod.spec.ready),
            );
        }
    }
    found
}

/// Slices may name an address twice while it moves between them.
fn push_once(found: &mut Vec<MeshEndpoint>, endpoint: MeshEndpoint) {
    if !found
        .iter()
        .any(|other| (other.address, other.port) == (endpoint.address, endpoint.port))
    {
        found.push(endpoint);
    }
}

fn pod_endpoint(
    state: &ClusterState,
    pod: Option<&Object<Pod>>,
    address: IpAddr,
    port: u16,
    ready: bool,
) -> MeshEndpoint {
    MeshEndpoint {
        address,
        port,
        healthy: Some(ready),
        weight: 1,
        locality: pod
            .map(|pod| locality(state, &pod.spec))
            .unwrap_or_default(),
        hbone: pod.is_some_and(Object::takes_hbone),
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

/// The name under which an endpoint's metadata knows its workload.
fn workload(name: &str, namespace: &str, canonical_name: &str, revision: &str) -> String {
    let revision = if revision == "latest" { "" } else { revision };
    format!("{name};{namespace};{canonical_name};{revision};{CLUSTER_ID}")
}

fn entry_endpoints(entry: &Object<ServiceEntry>, port: &MeshPort) -> Vec<MeshEndpoint> {
    let target = entry
        .spec
        .ports
        .iter()
        .find(|p| p.number == port.number)
        .map_or(port.number, |p| p.target);
    let endpoints = entry
        .spec
        .endpoints
        .iter()
        .enumerate()
        .map(|(index, endpoint)| {
            let own = format!("{}-{index}", entry.meta.name);
            let (canonical_name, revision) = canonical(&endpoint.labels, &own);
            let mut parts = endpoint.locality.splitn(3, '/').map(str::to_owned);
            let mut next = || parts.next().unwrap_or_default();
            let (region, zone, sub_zone) = (next(), next(), next());
            MeshEndpoint {
                address: endpoint.address,
                port: endpoint.ports.get(&port.name).copied().unwrap_or(target),
                healthy: None,
                weight: endpoint.weight,
                locality: Locality {
                    region,
                    zone,
                    sub_zone,
                },
                hbone: false,
                workload: Some(workload(
                    &own,
                    &entry.meta.namespace,
                    canonical_name,
                    revision,
                )),
            }
        });
    endpoints.collect()
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::yaml::documents;

    const PODS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: web}, annotations: {ambient.istio.io/redirection: enabled}}, spec: {nodeName: n1, containers: [{ports: [{name: web, containerPort: 8080}]}]}, status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, labels: {app: web}}, status: {podIP: 10.0.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c, labels: {app: web}}, status: {podIP: 10.0.0.3, phase: Failed}}
---
{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: TARGET}]}}
";

    fn endpoints(text: &str) -> Vec<MeshEndpoint> {
        let state = ClusterState::read(documents(Path::new("a.yaml"), text).unwrap()).unwrap();
        let service = MeshService::of_service(state.services.values().next().unwrap());
        service.endpoints(&state, &service.ports[0])
    }

    #[test]
    fn a_service_without_slices_takes_its_pods() {
        let found = endpoints(&PODS.replace("TARGET", "9080"));
        let seen: Vec<_> = found
            .iter()
            .map(|e| (e.address.to_string(), e.port, e.healthy, e.hbone))
            .collect();
        assert_eq!(
            seen,
            [
                ("10.0.0.1".to_owned(), 9080, Some(true), true),
                ("10.0.0.2".to_owned(), 9080, Some(false), false)
            ]
        );
        assert_eq!(
            found[0].workload.as_deref(),
            Some("a;default;web;;Kubernetes")
        );
        assert_eq!(found[0].locality.zone, "z");
        let named = endpoints(&PODS.replace("TARGET", "web"));
        assert_eq!(named.iter().map(|e| e.port).collect::<Vec<_>>(), [8080]);
    }

    #[test]
    fn slices_stand_above_the_selector() {
        let slice = "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, labels: {kubernetes.io/service-name: s}}, ports: [{port: 1}], endpoints: [{addresses: [10.9.9.9]}, {addresses: [10.9.9.9]}, {addresses: [10.9.9.8], conditions: {ready: false, terminating: true}}]}";
        let found = endpoints(&(PODS.replace("TARGET", "9080") + slice));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].port, &found[0].workload), (1, &None));
    }
}
