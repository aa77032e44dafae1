//! EndpointSlice: the addresses behind a service, with their state.

use std::net::IpAddr;

use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::core::port::{NamedPort, Transport};
use crate::standalone::kinds::known_fields::{KnownFields, Report};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// The service in the same namespace; absent for a slice that belongs to none.
    pub service: Option<String>,
    /// A slice port without a number means every port and isn't used by services.
    pub ports: Vec<NamedPort>,
    pub endpoints: Vec<Endpoint>,
    /// `addressType: FQDN`: host names, which no service of Kubernetes uses. There are no endpoints then.
    pub host_names: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Kubernetes gives exactly one.
    pub addresses: Vec<IpAddr>,
    pub conditions: Conditions,
    /// The pod in the slice's namespace.
    pub pod: Option<String>,
}

/// As they are written. `ready` decides, as with istiod; the others count only where it is false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Conditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

/// What an endpoint's conditions say. Absent conditions mean ready; one that isn't ready counts as
/// terminating unless it says that it isn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    Ready,
    NotReady,
    Terminating,
}

impl Conditions {
    pub fn state(self) -> EndpointState {
        match (self.ready, self.terminating) {
            (None | Some(true), _) => EndpointState::Ready,
            (Some(false), Some(false)) => EndpointState::NotReady,
            (Some(false), _) => EndpointState::Terminating,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum AddressType {
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    address_type: AddressType,
    #[serde(default)]
    ports: Vec<WirePort>,
    #[serde(default)]
    endpoints: Vec<WireEndpoint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WirePort {
    name: String,
    port: Option<u16>,
    protocol: Transport,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEndpoint {
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
    #[serde(default)]
    target_ref: Option<TargetRef>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct TargetRef {
    kind: String,
    name: String,
}

impl TargetRef {
    /// The pod's name, if it is a pod.
    pub(crate) fn pod(self) -> Option<String> {
        (self.kind == "Pod").then_some(self.name)
    }
}

/// Endpoints of a slice, and addresses of one, at most.
const MOST: (usize, usize) = (1000, 100);

/// Why an address can be no endpoint's. One on the loopback, which the API server refuses, is taken here.
pub(crate) fn special(address: IpAddr) -> Option<String> {
    let kind = match address {
        address if address.is_unspecified() => "unspecified",
        address if address.is_multicast() => "multicast",
        IpAddr::V4(v4) if v4.is_link_local() => "link-local",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "link-local",
        _ => return None,
    };
    Some(format!("{address} is {kind} and can be no endpoint"))
}

impl EndpointSlice {
    pub fn read(manifest: &Manifest) -> Result<Object<EndpointSlice>, LoadError> {
        let wire: Wire = manifest.whole()?;
        if wire.endpoints.len() > MOST.0 {
            return Err(manifest.refused("endpoints", format!("more than {}", MOST.0)));
        }
        let mut endpoints = Vec::with_capacity(wire.endpoints.len());
        // Slices of host names serve no Kubernetes service that istiod would read.
        let host_names = wire.address_type == AddressType::Fqdn;
        for (index, endpoint) in wire
            .endpoints
            .into_iter()
            .enumerate()
            .filter(|_| !host_names)
        {
            let addresses = endpoint.addresses(wire.address_type).map_err(|reason| {
                manifest.refused(format!("endpoints[{index}].addresses"), reason)
            })?;
            endpoints.push(Endpoint {
                addresses,
                conditions: endpoint.conditions,
                pod: endpoint.target_ref.and_then(TargetRef::pod),
            });
        }
        let mut ports: Vec<NamedPort> = Vec::new();
        for (index, port) in wire.ports.into_iter().enumerate() {
            let Some(number) = port.port else { continue };
            if ports.iter().any(|other| other.name == port.name) {
                let reason = format!("{:?} is given twice", port.name);
                return Err(manifest.refused(format!("ports[{index}].name"), reason));
            }
            ports.push(NamedPort {
                name: port.name,
                number,
                transport: port.protocol,
            });
        }
        let slice = EndpointSlice {
            service: manifest.meta.label(SERVICE_NAME).map(str::to_owned),
            ports,
            host_names,
            endpoints,
        };
        Ok(manifest.object(slice))
    }
}

impl WireEndpoint {
    fn addresses(&self, wanted: AddressType) -> Result<Vec<IpAddr>, String> {
        if self.addresses.is_empty() {
            return Err("is required".to_owned());
        }
        if self.addresses.len() > MOST.1 {
            return Err(format!("more than {}", MOST.1));
        }
        let read = |text: &String| {
            let address: IpAddr = text
                .parse()
                .map_err(|_| format!("{text:?} is no IP address"))?;
            if let Some(reason) = special(address) {
                return Err(reason);
            }
            if address.is_ipv4() == (wanted == AddressType::IPv4) {
                Ok(address)
            } else {
                Err(format!("{text} is not of addressType {wanted:?}"))
            }
        };
        self.addresses.iter().map(read).collect()
    }
}

/// What the API knows of it.
pub(crate) const FIELDS: &[KnownFields] = &[
    ("", Report::Always, &["addressType", "endpoints", "ports"]),
    (
        "ports[]",
        Report::Always,
        &["appProtocol", "name", "port", "protocol"],
    ),
    (
        "endpoints[]",
        Report::Always,
        &[
            "addresses",
            "conditions",
            "deprecatedTopology",
            "hints",
            "hostname",
            "nodeName",
            "targetRef",
            "zone",
        ],
    ),
    (
        "endpoints[].conditions",
        Report::Always,
        &["ready", "serving", "terminating"],
    ),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::input::yaml::documents;

    fn slice(rest: &str) -> Result<Object<EndpointSlice>, LoadError> {
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n{rest}"
        );
        EndpointSlice::read(&Manifest::of(&text))
    }

    #[test]
    fn conditions_default_to_ready() {
        let found = slice("ports: [{name: http, port: 80}]\nendpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false, terminating: false}}, {addresses: [10.0.0.3], conditions: {ready: false}}]").unwrap().spec;
        assert_eq!(found.service.as_deref(), Some("web"));
        let states: Vec<_> = found
            .endpoints
            .iter()
            .map(|e| e.conditions.state())
            .collect();
        assert_eq!(
            states,
            [
                EndpointState::Ready,
                EndpointState::NotReady,
                EndpointState::Terminating
            ]
        );
    }

    #[test]
    fn addresses_are_checked() {
        let error = slice("endpoints: [{addresses: [nonsense]}]").unwrap_err();
        assert_eq!(error.field.as_deref(), Some("endpoints[0].addresses"));
        assert!(slice("endpoints: [{addresses: [127.0.0.1]}]").is_ok());
        for special in ["0.0.0.0", "169.254.0.1", "224.0.0.1"] {
            let error = slice(&format!("endpoints: [{{addresses: [{special}]}}]")).unwrap_err();
            assert!(error.reason.contains("can be no endpoint"), "{error}");
        }
        let many = |what: &str, n: usize| vec![what; n].join(", ");
        let endpoint = "{addresses: [10.0.0.1]}";
        assert!(slice(&format!("endpoints: [{}]", many(endpoint, 1000))).is_ok());
        assert!(slice(&format!("endpoints: [{}]", many(endpoint, 1001))).is_err());
        let addresses = many("10.0.0.1", 101);
        assert!(slice(&format!("endpoints: [{{addresses: [{addresses}]}}]")).is_err());
        assert!(slice("endpoints: [{addresses: []}]").is_err());
        assert!(slice("endpoints: [{}]").is_err());
        let error = slice("endpoints: [{addresses: ['fd00::1']}]").unwrap_err();
        assert!(error.reason.contains("not of addressType IPv4"), "{error}");
    }

    #[test]
    fn kinds_of_addresses_and_ports() {
        let text = |kind: &str| {
            format!(
                "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s}}{kind}, endpoints: [{{addresses: ['fd00::1']}}]}}"
            )
        };
        let read = |kind: &str| {
            let document = documents(Path::new("a.yaml"), &text(kind))
                .unwrap()
                .remove(0);
            EndpointSlice::read(&Manifest::read(document, |_, _| true).unwrap())
        };
        assert_eq!(read(", addressType: IPv6").unwrap().spec.endpoints.len(), 1);
        let names = read(", addressType: FQDN").unwrap().spec;
        assert!(names.host_names && names.endpoints.is_empty());
        assert!(read(", addressType: ipv6").is_err());
        assert!(read("").unwrap_err().reason.contains("addressType"));
        let found = slice("ports: [{name: dns, port: 53, protocol: UDP}, {name: every}]").unwrap();
        assert_eq!(found.spec.ports.len(), 1);
        assert_eq!(found.spec.ports[0].transport, Transport::Udp);
        let error = slice("ports: [{name: a, port: 1}, {name: a, port: 2}]").unwrap_err();
        assert_eq!(error.field.as_deref(), Some("ports[1].name"));
    }
}
