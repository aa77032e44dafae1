//! A service of the mesh, whether Kubernetes or a ServiceEntry declares it: host name, addresses, ports and
//! endpoints.
//!
//! Endpoints come from EndpointSlices, and from WorkloadEntries that a Service selects. Where there is no slice at all, as in manifests that were written by hand,
//! what the controllers would make slices of stands in for them: the pods that the selector matches, or, without a
//! selector, the Endpoints of the same name.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::standalone::input::manifest::{Object, ObjectMeta, ObjectName};
use crate::standalone::kinds::core::endpoint_slice::{EndpointSlice, EndpointState};
use crate::standalone::kinds::core::pod::Pod;
use crate::standalone::kinds::core::port::Transport;
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::core::service::{CLUSTER_DOMAIN, Port, Service};
use crate::standalone::kinds::istio::service_entry::{EntryResolution, ServiceEntry};
use crate::standalone::kinds::traffic_policy::traffic_distribution::{
    ANNOTATION, TrafficDistribution,
};
use crate::standalone::state::cluster_state::ClusterState;
use crate::standalone::state::entry_endpoints::{entry_endpoints, machine_endpoints};
use crate::standalone::state::mesh_endpoint::{MeshEndpoint, drains, pod_endpoint};

/// What a name may stand for that a client of this namespace uses, as a pod's resolver tries it.
pub fn resolver_names(host: &str, namespace: &str) -> [String; 4] {
    [
        host.to_owned(),
        format!("{host}.{namespace}.{CLUSTER_DOMAIN}"),
        format!("{host}.{CLUSTER_DOMAIN}"),
        format!("{host}.cluster.local"),
    ]
}

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
    /// With the number it is the port's key.
    pub transport: Transport,
    pub protocol: Protocol,
}

/// How a service's endpoints are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Among the endpoints, by load balancing.
    Endpoints,
    /// The address that the client asked for (headless services, entries without resolution).
    Passthrough,
    /// By name; all addresses of it.
    Dns,
    /// By name; the first address of it.
    LogicalDns,
    /// By the name that a request, or a TLS client, asks for.
    Dynamic,
    /// Nowhere: an alias.
    None,
}

impl<'a> MeshService<'a> {
    pub fn of_service(service: &'a Object<Service>) -> MeshService<'a> {
        let ports = service.spec.ports.iter().map(|port| MeshPort {
            name: port.name.clone(),
            number: port.number,
            transport: port.transport,
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
            addresses: entry.spec.addresses_of(host),
            ports: entry
                .spec
                .ports
                .iter()
                .map(|port| MeshPort {
                    name: port.name.clone(),
                    number: port.number,
                    transport: match port.protocol {
                        Protocol::Udp => Transport::Udp,
                        _ => Transport::Tcp,
                    },
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

    /// The name of the object that declares it.
    pub fn declared_as(&self) -> ObjectName {
        match self.source {
            Source::Service(service) => service.name(),
            Source::Entry(entry) => entry.name(),
        }
    }

    pub fn resolution(&self) -> Resolution {
        match self.source {
            Source::Service(service) if service.spec.external_name => Resolution::None,
            Source::Service(service) if service.spec.headless => Resolution::Passthrough,
            Source::Service(_) => Resolution::Endpoints,
            Source::Entry(entry) => match entry.spec.resolution {
                EntryResolution::None => Resolution::Passthrough,
                EntryResolution::Static => Resolution::Endpoints,
                // One endpoint, of which all addresses are tried. istiod makes one of several, too, which Envoy refuses.
                EntryResolution::Dns if entry.spec.races && entry.spec.has_one_name() => {
                    Resolution::LogicalDns
                }
                EntryResolution::Dns => Resolution::Dns,
                EntryResolution::DnsRoundRobin => Resolution::LogicalDns,
                EntryResolution::Dynamic => Resolution::Dynamic,
            },
        }
    }

    /// The port at the other end, where it is another than the client's and nothing else says which.
    pub fn target_port(&self, port: &MeshPort) -> Option<u16> {
        let Source::Entry(entry) = self.source else {
            return None;
        };
        let mut ports = entry.spec.ports.iter();
        let own = ports.find(|own| own.number == port.number)?;
        (own.target != own.number).then_some(own.target)
    }

    /// Which endpoints it prefers: as its field says, its annotation, or its namespace's. A word that means nothing ends the
    /// search, as with istiod.
    pub fn traffic_distribution(&self, state: &ClusterState) -> Option<TrafficDistribution> {
        let (own, meta) = match self.source {
            Source::Service(service) => (service.spec.traffic_distribution, &service.meta),
            Source::Entry(entry) => (None, &entry.meta),
        };
        let said = |meta: &ObjectMeta| {
            let word = meta
                .annotation(ANNOTATION)
                .filter(|word| !word.is_empty())?;
            Some(TrafficDistribution::parse(word))
        };
        let namespace = || state.namespaces.get(self.namespace).and_then(said);
        own.or_else(|| said(meta).or_else(namespace).flatten())
    }

    /// Whether only endpoints on the client's node are meant.
    pub fn is_node_local(&self) -> bool {
        matches!(self.source, Source::Service(service) if service.spec.node_local)
    }

    /// Whether a name's addresses of both families are tried, and the first that answers is taken.
    pub fn races(&self) -> bool {
        matches!(self.source, Source::Entry(entry) if entry.spec.races)
    }

    /// Whether a ServiceEntry declares it.
    pub fn is_entry(&self) -> bool {
        matches!(self.source, Source::Entry(_))
    }

    /// Whether none of its endpoints belongs to the mesh.
    pub fn is_outside(&self) -> bool {
        match self.source {
            Source::Service(_) => false,
            Source::Entry(entry) => !entry.spec.in_mesh,
        }
    }

    /// The port with this number that a waypoint can carry.
    pub fn port(&self, number: u16) -> Option<&MeshPort> {
        self.ports
            .iter()
            .find(|port| port.number == number && port.transport == Transport::Tcp)
    }

    /// The endpoints behind one port.
    pub fn endpoints(&self, state: &ClusterState, port: &MeshPort) -> Vec<MeshEndpoint> {
        match self.source {
            Source::Service(service) => service_endpoints(state, service, port),
            Source::Entry(entry) => {
                entry_endpoints(state, entry, &self.hostname, (&port.name, port.number))
            }
        }
    }
}

fn service_endpoints(
    state: &ClusterState,
    service: &Object<Service>,
    port: &MeshPort,
) -> Vec<MeshEndpoint> {
    let own = |own: &&Port| own.number == port.number && own.transport == port.transport;
    let own = service.spec.ports.iter().find(own);
    let mut found = match (slices_of(state, service), own) {
        (Some(slices), _) => slice_endpoints(state, &service.meta.namespace, &slices, port),
        (None, Some(own)) => selected_endpoints(state, service, own),
        (None, None) => Vec::new(),
    };
    for machine in own
        .map(|own| machine_endpoints(state, service, own))
        .unwrap_or_default()
    {
        push_once(&mut found, machine);
    }
    found
}

/// The slices that tell a service's endpoints; `None`: it has none, and its selector tells them.
pub fn slices_of<'s>(
    state: &'s ClusterState,
    service: &Object<Service>,
) -> Option<Vec<&'s EndpointSlice>> {
    let name = service.name();
    let slices = state.slices_of(&name).map(|slice| &slice.spec);
    let slices: Vec<&EndpointSlice> = slices.collect();
    if !slices.is_empty() {
        return Some(slices);
    }
    if !service.spec.selector.is_empty() {
        return None;
    }
    let mirrored = state.endpoints.get(&name);
    let mirrored = mirrored.filter(|endpoints| endpoints.spec.not_mirrored.is_none());
    Some(mirrored.map_or_else(Vec::new, |endpoints| endpoints.spec.slices.iter().collect()))
}

fn slice_endpoints(
    state: &ClusterState,
    namespace: &str,
    slices: &[&EndpointSlice],
    port: &MeshPort,
) -> Vec<MeshEndpoint> {
    let mut found: Vec<MeshEndpoint> = Vec::new();
    for slice in slices {
        // As kube-proxy has it, a port of another transport is another port.
        let of_port = slice
            .ports
            .iter()
            .find(|own| own.name == port.name && own.transport == port.transport);
        let Some(of_port) = of_port else { continue };
        let serving = slice
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.conditions.state() != EndpointState::Terminating);
        for endpoint in serving {
            let pod = endpoint.pod.as_ref();
            let pod = pod.and_then(|pod| state.pods.get(&ObjectName::new(namespace, pod)));
            if pod.is_some_and(|pod| drains(&pod.meta.labels)) {
                continue;
            }
            let ready = endpoint.conditions.state() == EndpointState::Ready;
            for address in &endpoint.addresses {
                let endpoint = pod_endpoint(state, pod, *address, of_port.number, ready);
                push_once(&mut found, endpoint);
            }
        }
    }
    found
}

/// The endpoint controller's part: every pod that runs and has an address, in the service's families. One that
/// terminates serves only where readiness doesn't count.
fn selected_endpoints(
    state: &ClusterState,
    service: &Object<Service>,
    port: &Port,
) -> Vec<MeshEndpoint> {
    let mut found: Vec<MeshEndpoint> = Vec::new();
    for pod in selected_pods(state, service) {
        let publish = service.spec.publish_not_ready;
        let (terminates, ready) = (pod.meta.deletion_timestamp.is_some(), pod.spec.ready);
        let Some(number) = pod.spec.port(&port.target, port.transport) else {
            continue;
        };
        if (terminates && !publish) || drains(&pod.meta.labels) {
            continue;
        }
        for address in pod.spec.addresses.iter().filter(|a| service.spec.takes(a)) {
            let endpoint = pod_endpoint(state, Some(pod), *address, number, publish || ready);
            push_once(&mut found, endpoint);
        }
    }
    found
}

/// The running pods that a service's selector matches.
pub fn selected_pods<'s>(
    state: &'s ClusterState,
    service: &Object<Service>,
) -> impl Iterator<Item = &'s Object<Pod>> {
    let (namespace, selector) = (
        service.meta.namespace.clone(),
        service.spec.selector.clone(),
    );
    state.pods.values().filter(move |pod| {
        let selects = |(name, value): (&String, &String)| pod.meta.labels.get(name) == Some(value);
        pod.meta.namespace == namespace
            && !pod.spec.terminal
            && !selector.is_empty()
            && selector.iter().all(selects)
    })
}

/// Slices may name an address twice while it moves between them.
fn push_once(found: &mut Vec<MeshEndpoint>, endpoint: MeshEndpoint) {
    if !found
        .iter()
        .any(|other| other.address == endpoint.address && other.port == endpoint.port)
    {
        found.push(endpoint);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::input::yaml::documents;

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

    fn addresses(text: &str) -> Vec<(String, u16, Option<bool>)> {
        let state = ClusterState::read(documents(Path::new("a.yaml"), text).unwrap()).unwrap();
        let service = MeshService::of_service(state.services.values().next().unwrap());
        let found = service.endpoints(&state, service.port(80).unwrap());
        let seen = |e: &MeshEndpoint| (e.address.to_string(), e.port, e.healthy);
        found.iter().map(seen).collect()
    }

    fn selecting(spec: &str, pods: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{selector: {{app: web}}, {spec}}}}}\n---\n{pods}"
        )
    }

    fn pod(meta: &str, spec: &str, status: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p, labels: {{app: web}}{meta}}}, spec: {{{spec}}}, status: {{podIPs: [{{ip: 10.0.0.1}}, {{ip: 'fd00::1'}}]{status}}}}}"
        )
    }

    #[test]
    fn the_endpoint_controllers_rules() {
        let ready = ", conditions: [{type: Ready, status: 'True'}]";
        let (going, gated) = (
            ", deletionTimestamp: '2026-01-01T00:00:00Z'",
            ", conditions: [{type: ContainersReady, status: 'True'}, {type: Ready, status: 'False'}]",
        );
        let (one, both) = ("clusterIP: 10.1.0.1", "clusterIPs: [10.1.0.1, 'fd00::9']");
        let tcp = "ports: [{port: 80, targetPort: 8080}]";
        let v4 = |healthy| vec![("10.0.0.1".to_owned(), 8080, Some(healthy))];
        for (service, meta, spec, status, expected) in [
            (format!("{one}, {tcp}"), "", "", ready, v4(true)),
            (format!("{one}, {tcp}"), "", "", gated, v4(false)),
            (format!("{one}, {tcp}"), going, "", ready, vec![]),
            (
                format!("{one}, {tcp}, publishNotReadyAddresses: true"),
                going,
                "",
                gated,
                v4(true),
            ),
            (
                format!("{one}, {tcp}, publishNotReadyAddresses: true"),
                "",
                "",
                ", phase: Failed",
                vec![],
            ),
            (
                format!("{one}, {tcp}"),
                "",
                "hostNetwork: true",
                ready,
                v4(true),
            ),
            (
                format!("{both}, {tcp}"),
                "",
                "",
                ready,
                vec![
                    ("10.0.0.1".to_owned(), 8080, Some(true)),
                    ("fd00::1".to_owned(), 8080, Some(true)),
                ],
            ),
            (
                format!("clusterIP: 'fd00::9', {tcp}"),
                "",
                "",
                ready,
                vec![("fd00::1".to_owned(), 8080, Some(true))],
            ),
            // The port before it has the same number and another transport.
            (
                format!(
                    "{one}, ports: [{{port: 80, protocol: UDP, name: u, targetPort: 1}}, {{port: 80, name: t, targetPort: 8080}}]"
                ),
                "",
                "",
                ready,
                v4(true),
            ),
            (
                format!("{one}, ports: [{{port: 80, targetPort: in}}]"),
                "",
                "initContainers: [{restartPolicy: Always, ports: [{name: in, containerPort: 8080}]}]",
                ready,
                v4(true),
            ),
            (
                format!("{one}, ports: [{{port: 80, targetPort: in}}]"),
                "",
                "containers: [{ports: [{name: in, protocol: UDP, containerPort: 8080}]}]",
                ready,
                vec![],
            ),
            (
                format!("{one}, ports: [{{port: 80, targetPort: ''}}]"),
                "",
                "",
                ready,
                vec![("10.0.0.1".to_owned(), 80, Some(true))],
            ),
        ] {
            let text = selecting(&service, &pod(meta, spec, status));
            assert_eq!(addresses(&text), expected, "{text}");
        }
    }

    #[test]
    fn endpoints_are_mirrored_beside_a_service_without_a_selector() {
        let service = |spec: &str| {
            format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: db}}, spec: {{{spec}ports: [{{port: 80}}]}}}}\n---\n"
            )
        };
        let endpoints = |meta: &str| {
            format!(
                "{{apiVersion: v1, kind: Endpoints, metadata: {{name: db{meta}}}, subsets: [{{addresses: [{{ip: 10.0.0.1}}], notReadyAddresses: [{{ip: 10.0.0.2}}], ports: [{{port: 5432}}]}}]}}\n---\n"
            )
        };
        let slice = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{port: 1}], endpoints: [{addresses: [10.9.9.9, 10.9.9.8]}]}";
        let at = |address: &str, port| (address.to_owned(), port, Some(true));
        assert_eq!(
            addresses(&(service("") + &endpoints(""))),
            [at("10.0.0.1", 5432)]
        );
        assert_eq!(
            addresses(&(service("") + &endpoints("") + slice)),
            [at("10.9.9.9", 1), at("10.9.9.8", 1)]
        );
        let skip = ", labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}";
        assert_eq!(addresses(&(service("") + &endpoints(skip))), []);
        let selects = service("selector: {app: web}, ");
        assert_eq!(addresses(&(selects + &endpoints(""))), []);
    }

    #[test]
    fn a_slices_port_of_another_transport_is_another_port() {
        let text = "{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{port: 1, protocol: UDP}], endpoints: [{addresses: [10.9.9.9]}]}";
        assert_eq!(addresses(text), []);
    }

    #[test]
    fn slices_stand_above_the_selector() {
        let slice = "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{port: 1}], endpoints: [{addresses: [10.9.9.9]}, {addresses: [10.9.9.9]}, {addresses: [10.9.9.8], conditions: {ready: false, terminating: true}}]}";
        let found = endpoints(&(PODS.replace("TARGET", "9080") + slice));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].port, &found[0].workload), (1, &None));
    }
}
