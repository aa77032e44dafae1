//! EndpointSlice: the addresses behind a service, with their state.

use std::net::IpAddr;

use serde::Deserialize;

use crate::standalone::manifest::{Manifest, Object};
use crate::standalone::problem::LoadError;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// The service in the same namespace; absent for a slice that belongs to none.
    pub service: Option<String>,
    /// Port name and number. A slice port without a number means every port and isn't used by services.
    pub ports: Vec<(String, u16)>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The first address is the one that is used; Kubernetes gives exactly one.
    pub addresses: Vec<IpAddr>,
    pub state: EndpointState,
    /// The pod in the slice's namespace.
    pub pod: Option<String>,
    pub zone: Option<String>,
}

/// What an endpoint's conditions say. Absent conditions mean ready; one that isn't ready counts as
/// terminating unless it says that it isn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    Ready,
    NotReady,
    Terminating,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    address_type: String,
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
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEndpoint {
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
    #[serde(default)]
    target_ref: Option<TargetRef>,
    #[serde(default)]
    zone: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TargetRef {
    kind: String,
    name: String,
}

impl EndpointSlice {
    pub fn read(manifest: &Manifest) -> Result<Object<EndpointSlice>, LoadError> {
        let wire: Wire = manifest.whole()?;
        let mut endpoints = Vec::with_capacity(wire.endpoints.len());
        // Slices of host names serve no Kubernetes service that istiod would read.
        let usable = wire.address_type != "FQDN";
        for (index, endpoint) in wire.endpoints.into_iter().enumerate().filter(|_| usable) {
            let mut addresses = Vec::with_capacity(endpoint.addresses.len());
            for address in &endpoint.addresses {
                addresses.push(address.parse().map_err(|_| {
                    manifest.refused(
                        format!("endpoints[{index}].addresses"),
                        format!("{address:?} is no IP address"),
                    )
                })?);
            }
            if addresses.is_empty() {
                return Err(
                    manifest.refused(format!("endpoints[{index}].addresses"), "is required")
                );
            }
            endpoints.push(Endpoint {
                addresses,
                state: match (endpoint.conditions.ready, endpoint.conditions.terminating) {
                    (None | Some(true), _) => EndpointState::Ready,
                    (Some(false), Some(false)) => EndpointState::NotReady,
                    (Some(false), _) => EndpointState::Terminating,
                },
                pod: endpoint
                    .target_ref
                    .filter(|target| target.kind == "Pod")
                    .map(|target| target.name),
                zone: endpoint.zone,
            });
        }
        let slice = EndpointSlice {
            service: manifest.meta.label(SERVICE_NAME).map(str::to_owned),
            ports: wire
                .ports
                .into_iter()
                .filter_map(|port| Some((port.name, port.port?)))
                .collect(),
            endpoints,
        };
        Ok(manifest.object(slice))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::yaml::documents;

    fn slice(rest: &str) -> Result<Object<EndpointSlice>, LoadError> {
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, labels: {{kubernetes.io/service-name: web}}}}\n{rest}"
        );
        let document = documents(Path::new("a.yaml"), &text).unwrap().remove(0);
        EndpointSlice::read(&Manifest::read(document, |_, _| true).unwrap())
    }

    #[test]
    fn conditions_default_to_ready() {
        let found = slice("ports: [{name: http, port: 80}]\nendpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false, terminating: false}}, {addresses: [10.0.0.3], conditions: {ready: false}}]").unwrap().spec;
        assert_eq!(found.service.as_deref(), Some("web"));
        let states: Vec<_> = found.endpoints.iter().map(|e| e.state).collect();
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
        assert!(slice("endpoints: [{addresses: []}]").is_err());
        assert!(slice("endpoints: [{}]").is_err());
    }
}
