//! Service: addresses, ports with their application protocol, and the pods that it selects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;

use crate::standalone::input::labels::check_label;
use crate::standalone::input::labels::check_qualified_name;
use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::core::port::is_dns_label;
use crate::standalone::kinds::core::port::{TargetPort, Transport};
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::core::service_outside::Outside;
use crate::standalone::kinds::known_fields::{KnownFields, Report};
use crate::standalone::kinds::refusal::Refusal;
use crate::standalone::kinds::refusal::refusal;
use crate::standalone::kinds::traffic_policy::traffic_distribution::{TrafficDistribution, WORDS};

/// What the names of services end in.
pub const CLUSTER_DOMAIN: &str = "svc.cluster.local";

/// Annotation: whose proxies know of a service.
pub const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// `clusterIP` of a headless service.
const NONE: &str = "None";

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The cluster addresses; empty for a headless service, and while none is allocated.
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Port>,
    /// Empty: nobody but EndpointSlices and Endpoints tells where it runs.
    pub selector: BTreeMap<String, String>,
    pub headless: bool,
    /// Pods count as ready whatever they say.
    pub publish_not_ready: bool,
    /// Which endpoints are preferred, where the field says so.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Only endpoints on the client's node are meant (`internalTrafficPolicy: Local`).
    pub node_local: bool,
    /// Namespaces whose proxies know of it (annotation `networking.istio.io/exportTo`); empty: as the mesh has it.
    pub export_to: Vec<String>,
    /// Fields that could change where requests go and aren't honoured.
    pub not_honoured: Vec<NotHonoured>,
    /// Fields that are given and speak of traffic from outside the mesh only.
    pub of_outside: Vec<&'static str>,
    /// An ExternalName has no address and no endpoints of its own.
    pub external_name: bool,
    /// `ipFamilies`, else those of the addresses: which of a pod's addresses are its endpoints.
    families: BTreeSet<IpFamily>,
}

/// A field, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotHonoured {
    pub field: &'static str,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    pub name: String,
    pub number: u16,
    pub transport: Transport,
    pub target: TargetPort,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum IpFamily {
    IPv4,
    IPv6,
}

impl IpFamily {
    fn of(address: &IpAddr) -> IpFamily {
        match address {
            IpAddr::V4(_) => IpFamily::IPv4,
            IpAddr::V6(_) => IpFamily::IPv6,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum Type {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    r#type: Type,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    ip_families: Vec<IpFamily>,
    external_name: String,
    ports: Vec<PortSpec>,
    selector: BTreeMap<String, String>,
    publish_not_ready_addresses: bool,
    traffic_distribution: Option<String>,
    internal_traffic_policy: Option<String>,
    session_affinity: Option<String>,
    session_affinity_config: Option<SessionAffinityConfig>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: ClientIp,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIp {
    timeout_seconds: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortSpec {
    #[serde(default)]
    name: String,
    port: u16,
    #[serde(default)]
    protocol: Transport,
    #[serde(default)]
    app_protocol: Option<String>,
    #[serde(default)]
    target_port: Option<serde_json::Value>,
}

impl Service {
    pub fn read(manifest: &Manifest) -> Result<Object<Service>, LoadError> {
        let mut spec: Spec = manifest.part("spec")?;
        if spec.cluster_ips.is_empty() && !spec.cluster_ip.is_empty() {
            spec.cluster_ips.push(spec.cluster_ip.clone());
        }
        let refused = |(field, reason): Refusal| manifest.refused(format!("spec.{field}"), reason);
        spec.check_type().map_err(refused)?;
        let addresses = spec.addresses().map_err(refused)?;
        spec.check_words().map_err(refused)?;
        let mut ports: Vec<Port> = Vec::with_capacity(spec.ports.len());
        for (index, port) in spec.ports.iter().enumerate() {
            let read = port.read(&ports, spec.ports.len() > 1);
            ports.push(read.map_err(|(field, reason)| {
                manifest.refused(format!("spec.ports[{index}].{field}"), reason)
            })?);
        }
        let external_name = spec.r#type == Type::ExternalName;
        let headless = spec.cluster_ips.iter().any(|ip| ip == NONE);
        if ports.is_empty() && !headless && !external_name {
            return Err(manifest.refused("spec.ports", "is required"));
        }
        let families = if spec.ip_families.is_empty() {
            addresses.iter().map(IpFamily::of).collect()
        } else {
            spec.ip_families.iter().copied().collect()
        };
        Ok(manifest.object(Service {
            addresses,
            ports,
            headless,
            publish_not_ready: spec.publish_not_ready_addresses,
            traffic_distribution: spec
                .traffic_distribution
                .as_deref()
                .and_then(TrafficDistribution::parse),
            node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            export_to: exported(manifest),
            not_honoured: spec.not_honoured(),
            of_outside: Outside::read(manifest)?.given(),
            external_name,
            families,
            selector: spec.selector,
        }))
    }

    /// Whether a pod's address can be an endpoint; those of a service without any family of its own can all.
    pub fn takes(&self, address: &IpAddr) -> bool {
        self.families.is_empty() || self.families.contains(&IpFamily::of(address))
    }

    /// The port with this number that a waypoint can carry.
    pub fn tcp_port(&self, number: u16) -> Option<&Port> {
        self.ports
            .iter()
            .find(|port| port.number == number && port.transport == Transport::Tcp)
    }
}

fn exported(manifest: &Manifest) -> Vec<String> {
    let words = manifest.meta.annotation(EXPORT_TO).unwrap_or_default();
    let words = words.split(',').map(str::trim);
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

impl Spec {
    fn check_type(&self) -> Result<(), Refusal> {
        let headless = self.cluster_ips.iter().any(|ip| ip == NONE);
        match self.r#type {
            Type::ExternalName if self.external_name.is_empty() => {
                Err(refusal("externalName", "is required for type ExternalName"))
            }
            Type::ExternalName if !self.cluster_ips.is_empty() => Err(refusal(
                "clusterIPs",
                "may not be set for type ExternalName",
            )),
            Type::NodePort | Type::LoadBalancer if headless => {
                let reason = "None is only for type ClusterIP";
                Err(refusal("clusterIPs[0]", reason))
            }
            _ => Ok(()),
        }
    }

    /// The addresses that are given, one for each family at most.
    fn addresses(&self) -> Result<Vec<IpAddr>, Refusal> {
        if !self.cluster_ip.is_empty() && self.cluster_ips.first() != Some(&self.cluster_ip) {
            return Err(refusal("clusterIPs[0]", "must be the same as clusterIP"));
        }
        match self.ip_families.as_slice() {
            [] | [_] => {}
            [first, second] if first != second => {}
            _ => return Err(refusal("ipFamilies", "may hold each family once")),
        }
        if self.cluster_ips.first().is_some_and(|ip| ip == NONE) {
            return match self.cluster_ips.len() {
                1 => Ok(Vec::new()),
                _ => Err(refusal("clusterIPs", "None may have nothing beside it")),
            };
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for (index, ip) in self.cluster_ips.iter().enumerate() {
            let field = format!("clusterIPs[{index}]");
            let address: IpAddr = ip
                .parse()
                .map_err(|_| refusal(&*field, format!("{ip:?} is no IP address")))?;
            let family = IpFamily::of(&address);
            if addresses.iter().any(|other| IpFamily::of(other) == family) {
                return Err(refusal(field, "two addresses of one family"));
            }
            if self
                .ip_families
                .get(index)
                .is_some_and(|own| *own != family)
            {
                return Err(refusal(
                    field,
                    format!("{ip} is not of ipFamilies[{index}]"),
                ));
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// Fields with few values.
    fn check_words(&self) -> Result<(), Refusal> {
        for (field, value, known) in [
            (
                "sessionAffinity",
                &self.session_affinity,
                &["None", "ClientIP"][..],
            ),
            (
                "internalTrafficPolicy",
                &self.internal_traffic_policy,
                &["Cluster", "Local"],
            ),
            ("trafficDistribution", &self.traffic_distribution, &WORDS),
        ] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty())
                && !known.contains(&value)
            {
                let reason = format!("{value:?} is none of {}", known.join(", "));
                return Err(refusal(field, reason));
            }
        }
        if let Some(config) = &self.session_affinity_config {
            if self.session_affinity.as_deref() != Some("ClientIP") {
                let reason = "is for sessionAffinity ClientIP only";
                return Err(refusal("sessionAffinityConfig", reason));
            }
            let seconds = config.client_ip.timeout_seconds.unwrap_or(10_800);
            if !(1..=86_400).contains(&seconds) {
                let field = "sessionAffinityConfig.clientIP.timeoutSeconds";
                return Err(refusal(field, "must be between 1 and 86400"));
            }
        }
        for (name, value) in &self.selector {
            check_label(name, value)
                .map_err(|reason| refusal(format!("selector.{name}"), reason))?;
        }
        Ok(())
    }

    fn not_honoured(&self) -> Vec<NotHonoured> {
        let asked = [("sessionAffinity", &self.session_affinity, "None")];
        let asked = asked.into_iter().filter_map(|(field, value, plain)| {
            let value = value.as_deref().filter(|value| !value.is_empty())?;
            let value = value.to_owned();
            (value != plain).then_some(NotHonoured { field, value })
        });
        asked.collect()
    }
}

impl PortSpec {
    /// The port, if it may stand behind these.
    fn read(&self, before: &[Port], among_others: bool) -> Result<Port, Refusal> {
        if self.port == 0 {
            return Err(refusal("port", "must be between 1 and 65535"));
        }
        if among_others && self.name.is_empty() {
            return Err(refusal("name", "is required when there are several ports"));
        }
        if !self.name.is_empty() && !is_dns_label(&self.name) {
            let reason = format!("{:?} is no DNS label: a-z, 0-9 and - inside", self.name);
            return Err(refusal("name", reason));
        }
        if before.iter().any(|other| other.name == self.name) {
            return Err(refusal("name", format!("{:?} is given twice", self.name)));
        }
        let twin = |other: &&Port| other.number == self.port && other.transport == self.protocol;
        if before.iter().any(|other| twin(&other)) {
            let reason = format!("{} {} is given twice", self.protocol.name(), self.port);
            return Err(refusal("port", reason));
        }
        let target = TargetPort::read(self.target_port.as_ref(), self.port)
            .map_err(|reason| refusal("targetPort", reason))?;
        if let Some(protocol) = &self.app_protocol {
            check_qualified_name(protocol).map_err(|reason| refusal("appProtocol", reason))?;
        }
        Ok(Port {
            protocol: Protocol::of_port(
                self.protocol,
                self.port,
                &self.name,
                self.app_protocol.as_deref(),
            ),
            name: self.name.clone(),
            number: self.port,
            transport: self.protocol,
            target,
        })
    }
}

/// What the API knows of it.
pub(crate) const FIELDS: &[KnownFields] = &[
    ("", Report::Always, &["spec", "status"]),
    (
        "spec",
        Report::Always,
        &[
            "allocateLoadBalancerNodePorts",
            "clusterIP",
            "clusterIPs",
            "externalIPs",
            "externalName",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "internalTrafficPolicy",
            "ipFamilies",
            "ipFamilyPolicy",
            "loadBalancerClass",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "ports",
            "publishNotReadyAddresses",
            "selector",
            "sessionAffinity",
            "sessionAffinityConfig",
            "trafficDistribution",
            "type",
        ],
    ),
    (
        "spec.ports[]",
        Report::Always,
        &[
            "appProtocol",
            "name",
            "nodePort",
            "port",
            "protocol",
            "targetPort",
        ],
    ),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;

    fn service(spec: &str) -> Result<Object<Service>, LoadError> {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}");
        Service::read(&Manifest::of(&text))
    }

    fn protocol(port: &str) -> Protocol {
        service(&format!("{{ports: [{port}]}}")).unwrap().spec.ports[0].protocol
    }

    #[test]
    fn protocols() {
        for (port, expected) in [
            ("{port: 80, name: http-web}", Protocol::Http),
            ("{port: 80, name: http2}", Protocol::Http2),
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
    fn numbers_as_the_api_server_reads_them() {
        let found = service("{ports: [{port: 80.0, targetPort: 8e3}]}")
            .unwrap()
            .spec;
        assert_eq!(found.ports[0].number, 80);
        assert_eq!(found.ports[0].target, TargetPort::Number(8000));
        for (spec, field) in [
            ("{ports: [{port: 80.5}]}", "spec.ports[0].port"),
            (
                "{ports: [{port: 80, targetPort: 80.5}]}",
                "spec.ports[0].targetPort",
            ),
            ("{ports: [{port: '80'}]}", "spec.ports[0].port"),
        ] {
            let error = service(spec).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{spec}");
        }
    }

    #[test]
    fn a_port_is_known_by_number_and_transport() {
        let ports = "{port: 8443, protocol: UDP, name: quic, targetPort: 1}, {port: 8443, name: https, targetPort: 2}";
        let found = service(&format!("{{ports: [{ports}]}}")).unwrap().spec;
        let port = found.tcp_port(8443).unwrap();
        assert_eq!(
            (port.name.as_str(), &port.target),
            ("https", &TargetPort::Number(2))
        );
        assert!(found.tcp_port(8444).is_none());
    }

    #[test]
    fn families_choose_among_a_pods_addresses() {
        let (v4, v6) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        for (spec, expected) in [
            ("{clusterIP: 10.1.0.1, ports: [{port: 1}]}", (true, false)),
            (
                "{clusterIPs: [10.1.0.1, 'fd00::2'], ports: [{port: 1}]}",
                (true, true),
            ),
            ("{clusterIP: None, ports: [{port: 1}]}", (true, true)),
            (
                "{clusterIP: None, ipFamilies: [IPv6], ports: [{port: 1}]}",
                (false, true),
            ),
        ] {
            let found = service(spec).unwrap().spec;
            assert_eq!((found.takes(&v4), found.takes(&v6)), expected, "{spec}");
        }
    }

    #[test]
    fn what_is_not_honoured_is_told_where_it_asks_for_something() {
        let asked = |spec: &str| service(spec).unwrap().spec.not_honoured;
        assert!(
            asked("{ports: [{port: 1}], sessionAffinity: None, internalTrafficPolicy: Cluster}")
                .is_empty()
        );
        let all = "{ports: [{port: 1}], sessionAffinity: ClientIP, internalTrafficPolicy: Local, trafficDistribution: PreferClose}";
        let fields = asked(all).into_iter().map(|asked| asked.field);
        assert!(fields.eq(["sessionAffinity"]));
        let spec = service(all).unwrap().spec;
        assert!(spec.node_local);
        assert_eq!(
            spec.traffic_distribution,
            Some(TrafficDistribution::SameZone)
        );
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
            ("{ports: [{port: 80, name: Http}]}", "spec.ports[0].name"),
            ("{ports: [{port: 80, name: a_b}]}", "spec.ports[0].name"),
            (
                "{ports: [{port: 80, protocol: udp}]}",
                "spec.ports[0].protocol",
            ),
            (
                "{ports: [{port: 80, targetPort: '8080'}]}",
                "spec.ports[0].targetPort",
            ),
            (
                "{ports: [{port: 80, appProtocol: 'a b'}]}",
                "spec.ports[0].appProtocol",
            ),
            (
                "{ports: [{port: 1, name: a}, {port: 1, name: b}]}",
                "spec.ports[1].port",
            ),
            ("{}", "spec.ports"),
            ("{type: Cluster, ports: [{port: 1}]}", "spec.type"),
            ("{type: ExternalName}", "spec.externalName"),
            (
                "{type: ExternalName, externalName: a.test, clusterIP: 10.0.0.1}",
                "spec.clusterIPs",
            ),
            (
                "{type: LoadBalancer, clusterIP: None, ports: [{port: 1}]}",
                "spec.clusterIPs[0]",
            ),
            (
                "{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2], ports: [{port: 1}]}",
                "spec.clusterIPs[0]",
            ),
            (
                "{clusterIPs: [10.0.0.1, 10.0.0.2], ports: [{port: 1}]}",
                "spec.clusterIPs[1]",
            ),
            (
                "{clusterIPs: [None, 10.0.0.2], ports: [{port: 1}]}",
                "spec.clusterIPs",
            ),
            (
                "{clusterIP: 10.0.0.1, ipFamilies: [IPv6], ports: [{port: 1}]}",
                "spec.clusterIPs[0]",
            ),
            (
                "{clusterIP: None, ipFamilies: [IPv6, IPv6], ports: [{port: 1}]}",
                "spec.ipFamilies",
            ),
            (
                "{ports: [{port: 1}], sessionAffinity: clientip}",
                "spec.sessionAffinity",
            ),
            (
                "{ports: [{port: 1}], sessionAffinityConfig: {}}",
                "spec.sessionAffinityConfig",
            ),
            (
                "{ports: [{port: 1}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}",
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            ),
            (
                "{ports: [{port: 1}], trafficDistribution: Nearest}",
                "spec.trafficDistribution",
            ),
            (
                "{ports: [{port: 1}], selector: {a: 'b c'}}",
                "spec.selector.a",
            ),
        ] {
            assert_eq!(
                service(spec).unwrap_err().field.as_deref(),
                Some(field),
                "{spec}"
            );
        }
    }
}
