//! Endpoints, the older form of EndpointSlice, which people write beside a Service without a selector.
//!
//! The mirroring controller makes a slice of every subset, unless the object says that it shouldn't. A not
//! ready address becomes an endpoint that isn't ready and doesn't say whether it terminates.

use std::net::IpAddr;

use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::core::endpoint_slice::special;
use crate::standalone::kinds::core::endpoint_slice::{
    Conditions, Endpoint, EndpointSlice, TargetRef,
};
use crate::standalone::kinds::core::port::{NamedPort, Transport};
use crate::standalone::kinds::known_fields::{KnownFields, Report};

const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints {
    /// What the mirroring controller would make of the subsets.
    pub slices: Vec<EndpointSlice>,
    /// Why it would make nothing of them.
    pub not_mirrored: Option<&'static str>,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    subsets: Vec<Subset>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subset {
    addresses: Vec<Address>,
    not_ready_addresses: Vec<Address>,
    ports: Vec<Port>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    ip: IpAddr,
    target_ref: Option<TargetRef>,
}

#[derive(Deserialize)]
struct Port {
    #[serde(default)]
    name: String,
    port: u16,
    #[serde(default)]
    protocol: Transport,
}

impl Endpoints {
    pub fn read(manifest: &Manifest) -> Result<Object<Endpoints>, LoadError> {
        let wire: Wire = manifest.whole()?;
        let mut slices = Vec::with_capacity(wire.subsets.len());
        for (index, subset) in wire.subsets.into_iter().enumerate() {
            let slice = subset
                .slice(&manifest.meta.name)
                .map_err(|(field, reason)| {
                    manifest.refused(format!("subsets[{index}].{field}"), reason)
                })?;
            slices.push(slice);
        }
        let not_mirrored = if manifest.meta.label(SKIP_MIRROR) == Some("true") {
            Some("it has the label endpointslice.kubernetes.io/skip-mirror")
        } else if manifest.meta.annotation(LEADER).is_some() {
            Some("it is the lock of a leader election")
        } else {
            None
        };
        Ok(manifest.object(Endpoints {
            slices,
            not_mirrored,
        }))
    }
}

impl Subset {
    fn slice(self, service: &str) -> Result<EndpointSlice, (String, String)> {
        if self.addresses.is_empty() && self.not_ready_addresses.is_empty() {
            let reason = "addresses or notReadyAddresses is required".to_owned();
            return Err(("addresses".to_owned(), reason));
        }
        for (list, addresses) in [
            ("addresses", &self.addresses),
            ("notReadyAddresses", &self.not_ready_addresses),
        ] {
            for (index, address) in addresses.iter().enumerate() {
                if let Some(reason) = special(address.ip) {
                    return Err((format!("{list}[{index}].ip"), reason));
                }
            }
        }
        let several = self.ports.len() > 1;
        for (index, port) in self.ports.iter().enumerate() {
            let at = |field: &str| format!("ports[{index}].{field}");
            if port.port == 0 {
                return Err((at("port"), "must be between 1 and 65535".to_owned()));
            }
            if several && port.name.is_empty() {
                let reason = "is required when there are several ports".to_owned();
                return Err((at("name"), reason));
            }
        }
        let endpoints = |addresses: Vec<Address>, ready| {
            addresses.into_iter().map(move |address| Endpoint {
                addresses: vec![address.ip],
                conditions: Conditions {
                    ready: Some(ready),
                    ..Conditions::default()
                },
                pod: address.target_ref.and_then(TargetRef::pod),
            })
        };
        let ready = endpoints(self.addresses, true);
        Ok(EndpointSlice {
            service: Some(service.to_owned()),
            endpoints: ready
                .chain(endpoints(self.not_ready_addresses, false))
                .collect(),
            ports: self
                .ports
                .into_iter()
                .map(|port| NamedPort {
                    name: port.name,
                    number: port.port,
                    transport: port.protocol,
                })
                .collect(),
            host_names: false,
        })
    }
}

/// What the API knows of it.
pub(crate) const FIELDS: &[KnownFields] = &[
    ("", Report::Always, &["subsets"]),
    (
        "subsets[]",
        Report::Always,
        &["addresses", "notReadyAddresses", "ports"],
    ),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;
    use crate::standalone::kinds::core::endpoint_slice::EndpointState;

    fn endpoints(meta: &str, subset: &str) -> Result<Object<Endpoints>, LoadError> {
        let text = format!(
            "{{apiVersion: v1, kind: Endpoints, metadata: {{name: db{meta}}}, subsets: [{subset}]}}"
        );
        Endpoints::read(&Manifest::of(&text))
    }

    #[test]
    fn a_subset_is_a_slice() {
        let found = endpoints(
            "",
            "{addresses: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], notReadyAddresses: [{ip: 10.0.0.2}], ports: [{port: 5432}]}",
        )
        .unwrap()
        .spec;
        assert_eq!(found.not_mirrored, None);
        let slice = &found.slices[0];
        assert_eq!(slice.service.as_deref(), Some("db"));
        assert_eq!(
            (slice.ports[0].number, slice.ports[0].name.as_str()),
            (5432, "")
        );
        let states: Vec<_> = slice
            .endpoints
            .iter()
            .map(|e| e.conditions.state())
            .collect();
        assert_eq!(
            states,
            [
                EndpointState::Ready,
                EndpointState::Ready,
                EndpointState::Terminating
            ]
        );
    }

    #[test]
    fn some_are_not_mirrored() {
        let subset = "{addresses: [{ip: 10.0.0.1}]}";
        for meta in [
            ", labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}",
            ", annotations: {control-plane.alpha.kubernetes.io/leader: '{}'}",
        ] {
            let found = endpoints(meta, subset).unwrap().spec;
            assert!(found.not_mirrored.is_some(), "{meta}");
        }
    }

    #[test]
    fn refuses_what_the_api_server_refuses() {
        for (subset, field) in [
            ("{ports: [{port: 1}]}", "subsets[0].addresses"),
            ("{addresses: [{ip: x}]}", "subsets[0].addresses[0].ip"),
            (
                "{addresses: [{ip: 10.0.0.1}], notReadyAddresses: [{ip: '::'}]}",
                "subsets[0].notReadyAddresses[0].ip",
            ),
            (
                "{addresses: [{ip: 10.0.0.1}], ports: [{port: 0}]}",
                "subsets[0].ports[0].port",
            ),
            (
                "{addresses: [{ip: 10.0.0.1}], ports: [{port: 1, name: a}, {port: 2}]}",
                "subsets[0].ports[1].name",
            ),
        ] {
            let error = endpoints("", subset).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{subset}");
        }
    }
}
