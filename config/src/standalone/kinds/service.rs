//! Service: addresses, ports with their application protocol, and the pods that it selects.
//!
//! The protocol comes from `appProtocol`, else from the port's name up to the first hyphen, else some
//! well-known ports are TCP; everything else is unknown and sniffed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::standalone::manifest::{Manifest, Object};
use crate::standalone::problem::LoadError;

/// SMTP, DNS, MySQL and MongoDB: servers there speak first, or at least not HTTP.
const TCP_PORTS: &[u16] = &[25, 53, 3306, 27017];

/// Application protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Http2,
    HttpProxy,
    Grpc,
    GrpcWeb,
    Https,
    Tls,
    /// Plain TCP and what is treated so here: Mongo, Redis, MySQL, HBONE.
    Tcp,
    Udp,
    /// Not told: HTTP and TCP chains, and a look at the first bytes.
    Unknown,
}

impl Protocol {
    /// A protocol's name as Istio spells it in `appProtocol`, port names and ServiceEntry ports.
    pub fn parse(name: &str) -> Protocol {
        match name.to_ascii_lowercase().as_str() {
            "http" => Protocol::Http,
            "http2" => Protocol::Http2,
            "http_proxy" => Protocol::HttpProxy,
            "grpc" => Protocol::Grpc,
            "grpc-web" => Protocol::GrpcWeb,
            "https" => Protocol::Https,
            "tls" => Protocol::Tls,
            "tcp" | "mongo" | "redis" | "mysql" | "hbone" | "doublehbone" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => Protocol::Unknown,
        }
    }

    fn of_port(port: &PortSpec) -> Protocol {
        if port.protocol == "UDP" {
            return Protocol::Udp;
        }
        let mut name = port.name.as_str();
        if let Some(app_protocol) = &port.app_protocol {
            match app_protocol.as_str() {
                "kubernetes.io/h2c" => return Protocol::Http2,
                "kubernetes.io/ws" => return Protocol::Http,
                "kubernetes.io/wss" => return Protocol::Https,
                other => name = other,
            }
        }
        if name
            .get(..8)
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case("grpc-web"))
        {
            return Protocol::GrpcWeb;
        }
        match Protocol::parse(name.split('-').next().unwrap_or(name)) {
            Protocol::Unknown if TCP_PORTS.contains(&port.port) => Protocol::Tcp,
            protocol => protocol,
        }
    }

    pub fn is_http(self) -> bool {
        matches!(
            self,
            Protocol::Http
                | Protocol::Http2
                | Protocol::HttpProxy
                | Protocol::Grpc
                | Protocol::GrpcWeb
        )
    }

    pub fn is_http2(self) -> bool {
        matches!(self, Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb)
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Protocol::Https | Protocol::Tls)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The cluster addresses; empty for a headless service.
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Port>,
    pub selector: BTreeMap<String, String>,
    pub headless: bool,
    /// `trafficDistribution` is given; it isn't honoured.
    pub traffic_distribution: bool,
    /// An ExternalName has no address and no endpoints of its own.
    pub external_name: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub name: String,
    pub number: u16,
    pub target: TargetPort,
    pub protocol: Protocol,
}

/// Port on the pod, by number or by the name of a container's port.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    r#type: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    ports: Vec<PortSpec>,
    selector: BTreeMap<String, String>,
    traffic_distribution: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortSpec {
    #[serde(default)]
    name: String,
    port: u16,
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    app_protocol: Option<String>,
    #[serde(default)]
    target_port: Option<TargetPort>,
}

impl Service {
    pub fn read(manifest: &Manifest) -> Result<Object<Service>, LoadError> {
        let mut spec: Spec = manifest.part("spec")?;
        if spec.cluster_ips.is_empty() && !spec.cluster_ip.is_empty() {
            spec.cluster_ips.push(spec.cluster_ip.clone());
        }
        let external_name = spec.r#type == "ExternalName";
        let headless = spec.cluster_ips.iter().any(|ip| ip == "None");
        let mut addresses = Vec::new();
        if !headless && !external_name {
            for (index, ip) in spec.cluster_ips.iter().enumerate() {
                addresses.push(ip.parse().map_err(|_| {
                    manifest.refused(
                        format!("spec.clusterIPs[{index}]"),
                        format!("{ip:?} is no IP address"),
                    )
                })?);
            }
        }
        for (index, port) in spec.ports.iter().enumerate() {
            let field = |name: &str| format!("spec.ports[{index}].{name}");
            if port.port == 0 {
                return Err(manifest.refused(field("port"), "must be between 1 and 65535"));
            }
            if spec.ports.len() > 1 && port.name.is_empty() {
                return Err(
                    manifest.refused(field("name"), "is required when there are several ports")
                );
            }
            let twin = |other: &PortSpec| {
                other.name == port.name
                    || (other.port == port.port && other.protocol == port.protocol)
            };
            if spec.ports.iter().take(index).any(twin) {
                return Err(manifest.refused(field("name"), "two ports of one name or number"));
            }
        }
        let ports = spec
            .ports
            .into_iter()
            .map(|port| Port {
                protocol: Protocol::of_port(&port),
                number: port.port,
                target: port.target_port.unwrap_or(TargetPort::Number(port.port)),
                name: port.name,
            })
            .collect();
        let service = Service {
            addresses,
            ports,
            selector: spec.selector,
            traffic_distribution: spec.traffic_distribution.is_some(),
            headless,
            external_name,
        };
        Ok(manifest.object(service))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::yaml::documents;

    fn service(spec: &str) -> Result<Object<Service>, LoadError> {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}");
        let document = documents(Path::new("a.yaml"), &text).unwrap().remove(0);
        Service::read(&Manifest::read(document, |_, _| true).unwrap())
    }

    fn protocol(port: &str) -> Protocol {
        service(&format!("{{ports: [{port}]}}")).unwrap().spec.ports[0].protocol
    }

    #[test]
    fn protocols() {
        for (port, expected) in [
            ("{port: 80, name: http-web}", Protocol::Http),
            ("{port: 80, name: HTTP2}", Protocol::Http2),
            ("{port: 80, name: grpc-web-x}", Protocol::GrpcWeb),
            ("{port: 80, name: web}", Protocol::Unknown),
            ("{port: 80}", Protocol::Unknown),
            ("{port: 3306}", Protocol::Tcp),
            ("{port: 80, name: tcp, appProtocol: http}", Protocol::Http),
            (
                "{port: 80, appProtocol: kubernetes.io/h2c}",
                Protocol::Http2,
            ),
            (
                "{port: 80, name: http, appProtocol: example.com/x}",
                Protocol::Unknown,
            ),
            ("{port: 53, protocol: UDP, name: http}", Protocol::Udp),
            ("{port: 443, name: https}", Protocol::Https),
        ] {
            assert_eq!(protocol(port), expected, "{port}");
        }
    }

    #[test]
    fn addresses() {
        let found = service("{clusterIP: None, clusterIPs: [None], ports: [{port: 1}]}")
            .unwrap()
            .spec;
        assert!(found.headless && found.addresses.is_empty());
        let found = service("{clusterIP: 10.0.0.1, ports: [{port: 1, targetPort: web}]}")
            .unwrap()
            .spec;
        assert_eq!(found.addresses.len(), 1);
        assert_eq!(found.ports[0].target, TargetPort::Name("web".to_owned()));
    }

    #[test]
    fn refuses_what_the_api_server_refuses() {
        for (spec, field) in [
            ("{clusterIP: nonsense}", "spec.clusterIPs[0]"),
            ("{ports: [{port: 0}]}", "spec.ports[0].port"),
            (
                "{ports: [{port: 1, name: a}, {port: 2}]}",
                "spec.ports[1].name",
            ),
            (
                "{ports: [{port: 1, name: a}, {port: 2, name: a}]}",
                "spec.ports[1].name",
            ),
            ("{ports: [{name: y}]}", "spec.ports[0].name"),
            ("{ports: [{port: 70000}]}", "spec.ports[0].port"),
        ] {
            assert_eq!(
                service(spec).unwrap_err().field.as_deref(),
                Some(field),
                "{spec}"
            );
        }
    }
}
