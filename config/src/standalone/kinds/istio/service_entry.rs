//! ServiceEntry with `resolution: STATIC`: a host outside Kubernetes with fixed addresses.
//!
//! Other resolutions, selected workloads, and entries without addresses aren't honoured; the reader says
//! so by name and the entry is left out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::{LoadError, Problem, Severity};
use crate::standalone::kinds::core::service::Protocol;
use crate::standalone::kinds::istio::service_entry_schema;
use crate::standalone::kinds::refusal::Refusal;
use crate::standalone::kinds::refusal::refusal;

/// Label with which an entry asks istiod for addresses, or for none.
const ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";

/// Fields that could change where requests go and aren't honoured.
const NOT_HONOURED: &[&str] = &["exportTo", "subjectAltNames"];

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    pub hosts: Vec<String>,
    /// Those of the spec; empty where addresses were allocated.
    pub addresses: Vec<IpNet>,
    /// What istiod allocated, by host.
    allocated: BTreeMap<String, Vec<IpAddr>>,
    pub ports: Vec<EntryPort>,
    pub endpoints: Vec<EntryEndpoint>,
    /// `location` is given. A waypoint reaches the endpoints of either alike.
    pub says_location: bool,
    /// Fields that are given and aren't honoured, with the reason.
    pub not_honoured: Vec<(String, String)>,
}

impl ServiceEntry {
    /// The addresses of one of the hosts.
    pub fn addresses_of(&self, host: &str) -> Vec<IpNet> {
        if !self.addresses.is_empty() {
            return self.addresses.clone();
        }
        let allocated = self.allocated.get(host).into_iter().flatten();
        allocated.copied().map(IpNet::from).collect()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct EntryPort {
    pub name: String,
    pub number: u16,
    pub target: u16,
    pub protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq)]
pub struct EntryEndpoint {
    /// Its place in the entry.
    pub index: usize,
    pub address: IpAddr,
    pub service_account: String,
    /// Port numbers by the entry's port names.
    pub ports: BTreeMap<String, u16>,
    pub labels: BTreeMap<String, String>,
    pub weight: u32,
    /// `region/zone/subzone`.
    pub locality: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<WirePort>,
    resolution: String,
    location: Option<String>,
    /// An empty list counts as given, as in the CRD.
    endpoints: Option<Vec<WireEndpoint>>,
    workload_selector: Option<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Vec<StatusAddress>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StatusAddress {
    value: String,
    host: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePort {
    number: u16,
    name: String,
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    target_port: Option<u16>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireEndpoint {
    address: String,
    ports: BTreeMap<String, u16>,
    labels: BTreeMap<String, String>,
    weight: Option<u32>,
    locality: String,
    network: String,
    service_account: String,
}

impl ServiceEntry {
    /// `Ok(Err(problem))` is an entry that is sound but not honoured.
    pub fn read(manifest: &Manifest) -> Result<Result<Object<ServiceEntry>, Problem>, LoadError> {
        let spec: Spec = manifest.part("spec")?;
        service_entry_schema::check(manifest)?;
        if spec.hosts.is_empty() {
            return Err(manifest.refused("spec.hosts", "is required"));
        }
        spec.check()
            .map_err(|(field, reason)| manifest.refused(format!("spec.{field}"), reason))?;
        let mut addresses = Vec::new();
        for (index, address) in spec.addresses.iter().enumerate() {
            let parsed = address
                .parse::<IpNet>()
                .or_else(|_| address.parse::<IpAddr>().map(IpNet::from));
            addresses.push(parsed.map_err(|_| {
                manifest.refused(
                    format!("spec.addresses[{index}]"),
                    format!("{address:?} is no address"),
                )
            })?);
        }
        let allocated = allocated(manifest)?;
        if let Some((field, reason)) = spec.not_honoured(&allocated) {
            return Ok(Err(manifest.problem(Severity::Ignored, field, reason)));
        }
        let mut not_honoured = not_honoured_fields(manifest);
        let mut endpoints = Vec::new();
        for (index, endpoint) in spec.endpoints.into_iter().flatten().enumerate() {
            let at = |field: &str| format!("endpoints[{index}].{field}");
            if !endpoint.network.is_empty() && !endpoint.address.is_empty() {
                let reason = "is not honoured: the endpoint is reached by its own address";
                not_honoured.push((at("network"), reason.to_owned()));
            }
            match endpoint.read(index) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(Unusable::NotHonoured(field, reason)) => not_honoured.push((at(field), reason)),
                Err(Unusable::Refused(reason)) => {
                    return Err(manifest.refused(format!("spec.{}", at("address")), reason));
                }
            }
        }
        let ports = spec.ports.into_iter().map(|port| EntryPort {
            protocol: Protocol::parse(&port.protocol),
            number: port.number,
            target: port.target_port.unwrap_or(port.number),
            name: port.name,
        });
        let ports = ports.collect();
        Ok(Ok(manifest.object(ServiceEntry {
            hosts: spec.hosts,
            addresses,
            allocated,
            says_location: spec.location.is_some(),
            not_honoured,
            ports,
            endpoints,
        })))
    }
}

/// Why an endpoint is none here.
enum Unusable {
    /// The API server would refuse it, too.
    Refused(String),
    /// Its field and the reason.
    NotHonoured(&'static str, String),
}

impl WireEndpoint {
    fn check(&self) -> Result<(), Refusal> {
        if self.address.is_empty() && self.network.is_empty() {
            return Err(refusal("address", "is required where no network is given"));
        }
        let Some(path) = self.address.strip_prefix("unix://") else {
            return Ok(());
        };
        if !path.starts_with(['/', '@']) || path.ends_with('/') {
            let reason = "must be an absolute path of a socket, or begin with @";
            return Err(refusal("address", reason));
        }
        match self.ports.is_empty() {
            true => Ok(()),
            false => Err(refusal("ports", "may not be given for a Unix socket")),
        }
    }

    fn read(self, index: usize) -> Result<EntryEndpoint, Unusable> {
        let address = self.address.as_str();
        if address.is_empty() && !self.network.is_empty() {
            let reason = "an endpoint without an address is reached by its network's gateway, which is not honoured: it is left out";
            return Err(Unusable::NotHonoured("network", reason.to_owned()));
        }
        if address.starts_with("unix://") {
            let reason = format!("{address} is not honoured: the endpoint is left out");
            return Err(Unusable::NotHonoured("address", reason));
        }
        let parsed = address.parse();
        let address =
            parsed.map_err(|_| Unusable::Refused(format!("{address:?} is no IP address")))?;
        Ok(EntryEndpoint {
            index,
            address,
            service_account: self.service_account,
            ports: self.ports,
            labels: self.labels,
            weight: self.weight.filter(|weight| *weight > 0).unwrap_or(1),
            locality: self.locality,
        })
    }
}

impl Spec {
    /// Why the entry as a whole isn't honoured.
    fn not_honoured(
        &self,
        allocated: &BTreeMap<String, Vec<IpAddr>>,
    ) -> Option<(&'static str, String)> {
        let resolution = match self.resolution.as_str() {
            "" => "NONE",
            given => given,
        };
        if resolution != "STATIC" {
            let reason = format!("{resolution} is not honoured, only STATIC");
            return Some(("spec.resolution", reason));
        }
        if self.workload_selector.is_some() {
            return Some(("spec.workloadSelector", "is not honoured".to_owned()));
        }
        if let Some(host) = self.hosts.iter().find(|host| host.contains('*')) {
            return Some(("spec.hosts", format!("wildcard {host:?} is not honoured")));
        }
        let mut hosts = self.hosts.iter();
        if self.addresses.is_empty() && !hosts.any(|host| allocated.contains_key(host)) {
            let reason = "an entry without addresses, in spec or in status, is not honoured: none are allocated here";
            return Some(("spec.addresses", reason.to_owned()));
        }
        None
    }

    /// What several fields must hold together: the CRD's rules and those of Istio's admission check.
    fn check(&self) -> Result<(), Refusal> {
        if self.workload_selector.is_some() && self.endpoints.is_some() {
            let reason = "only one of workloadSelector and endpoints may be given";
            return Err(refusal("endpoints", reason));
        }
        let resolution = self.resolution.as_str();
        let ranges = matches!(resolution, "" | "NONE" | "STATIC");
        if !ranges && self.addresses.iter().any(|address| address.contains('/')) {
            return Err(refusal("addresses", "ranges are only for NONE and STATIC"));
        }
        if matches!(resolution, "" | "NONE") && self.endpoints.is_some() {
            return Err(refusal(
                "endpoints",
                "may not be given with resolution NONE",
            ));
        }
        if resolution == "DNS_ROUND_ROBIN" && self.endpoints.iter().flatten().count() > 1 {
            let reason = "DNS_ROUND_ROBIN takes one endpoint at most";
            return Err(refusal("endpoints", reason));
        }
        if self.hosts.iter().any(|host| host == "*") {
            return Err(refusal("hosts", "\"*\" is no host"));
        }
        self.check_ports()?;
        for (index, endpoint) in self.endpoints.iter().flatten().enumerate() {
            let at = |(field, reason): Refusal| (format!("endpoints[{index}].{field}"), reason);
            endpoint.check().map_err(at)?;
            for (name, number) in &endpoint.ports {
                let known = self.ports.iter().any(|port| port.name == *name);
                if !known || *number == 0 {
                    let reason = match known {
                        true => "must be between 1 and 65535",
                        false => "is no port of the entry",
                    };
                    return Err(refusal(format!("endpoints[{index}].ports.{name}"), reason));
                }
            }
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), Refusal> {
        let resolution = self.resolution.as_str();
        for (index, port) in self.ports.iter().enumerate() {
            let at = |field: &str| format!("ports[{index}].{field}");
            let before = || self.ports.iter().take(index);
            if before().any(|other| other.number == port.number) {
                return Err(refusal(
                    at("number"),
                    format!("{} is given twice", port.number),
                ));
            }
            if before().any(|other| other.name == port.name) {
                return Err(refusal(
                    at("name"),
                    format!("{:?} is given twice", port.name),
                ));
            }
            let protocol = Protocol::parse(&port.protocol);
            if !port.protocol.is_empty() && protocol == Protocol::Unknown {
                let reason = format!("{:?} is no protocol", port.protocol);
                return Err(refusal(at("protocol"), reason));
            }
            let told_apart = protocol.is_http() || protocol.is_tls();
            if self.hosts.len() > 1 && !told_apart && !matches!(resolution, "" | "NONE") {
                let reason = "with several hosts every port must speak HTTP or TLS";
                return Err(refusal(at("protocol"), reason));
            }
        }
        Ok(())
    }
}

/// Fields that ask for something and get nothing.
fn not_honoured_fields(manifest: &Manifest) -> Vec<(String, String)> {
    let spec = manifest.body.get("spec");
    let asks = |name: &&&str| {
        let given = spec
            .and_then(|spec| spec.get(**name))
            .and_then(|given| given.as_array());
        // Everybody, which is what it is without the field.
        let everybody = |given: &Vec<_>| given.iter().all(|value| value == "*");
        given.is_some_and(|given| !everybody(given))
    };
    let told = |name: &&str| ((*name).to_owned(), "is not honoured".to_owned());
    NOT_HONOURED.iter().filter(asks).map(told).collect()
}

/// The addresses that istiod has put into the status. As with istiod, the label that asks for none says that
/// they don't count.
fn allocated(manifest: &Manifest) -> Result<BTreeMap<String, Vec<IpAddr>>, LoadError> {
    let mut found: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let wanted = manifest.meta.label(ALLOCATE);
    if wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case("false")) {
        return Ok(found);
    }
    let status: Status = manifest.part("status")?;
    for (index, address) in status.addresses.into_iter().enumerate() {
        let parsed = address.value.parse().map_err(|_| {
            let reason = format!("{:?} is no IP address", address.value);
            manifest.refused(format!("status.addresses[{index}].value"), reason)
        })?;
        found.entry(address.host).or_default().push(parsed);
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;

    fn entry(spec: &str) -> Result<Result<Object<ServiceEntry>, Problem>, LoadError> {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e}}\nspec: {spec}"
        );
        ServiceEntry::read(&Manifest::of(&text))
    }

    #[test]
    fn static_entries_are_read() {
        let found = entry("{hosts: [a.test], addresses: [240.0.0.1], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.1, ports: {http: 8080}}]}")
            .unwrap()
            .unwrap()
            .spec;
        assert_eq!(found.endpoints[0].weight, 1);
        assert_eq!(found.ports[0].protocol, Protocol::Http);
        assert_eq!(found.addresses[0].prefix_len(), 32);
    }

    #[test]
    fn allocated_addresses_are_read() {
        let read = |label: &str, addresses: &str| {
            let text = format!(
                "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: e, labels: {{{label}}}}}, spec: {{hosts: [a.test, b.test]{addresses}, resolution: STATIC, endpoints: [{{address: 192.0.2.1}}]}}, status: {{addresses: [{{value: 240.240.0.1, host: a.test}}, {{value: '2001:2::1', host: a.test}}]}}}}"
            );
            ServiceEntry::read(&Manifest::of(&text)).unwrap()
        };
        let texts = |entry: &ServiceEntry, host: &str| -> Vec<String> {
            entry
                .addresses_of(host)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        let found = read("", "").unwrap().spec;
        assert_eq!(texts(&found, "a.test"), ["240.240.0.1/32", "2001:2::1/128"]);
        assert!(texts(&found, "b.test").is_empty());
        let own = read("", ", addresses: [10.9.0.1]").unwrap().spec;
        assert_eq!(texts(&own, "a.test"), ["10.9.0.1/32"]);
        let refused = "networking.istio.io/enable-autoallocate-ip: 'false'";
        assert_eq!(read(refused, "").unwrap_err().field, "spec.addresses");
    }

    #[test]
    fn what_istio_refuses() {
        let ports =
            |ports: &str| format!("{{hosts: [a.test], resolution: STATIC, ports: [{ports}]}}");
        for (spec, field) in [
            (ports("{number: 0, name: a}"), "spec.ports[0].number"),
            (ports("{number: 80, name: a_b}"), "spec.ports[0].name"),
            (ports("{number: 80, name: a, targetPort: 0}"), "spec.ports[0].targetPort"),
            (ports("{number: 80, name: a, protocol: QUIK}"), "spec.ports[0].protocol"),
            (ports("{number: 80, name: a}, {number: 80, name: b}"), "spec.ports[1].number"),
            (ports("{number: 80, name: a}, {number: 81, name: a}"), "spec.ports[1].name"),
            ("{hosts: [a.test], resolution: static}".to_owned(), "spec.resolution"),
            ("{hosts: ['*'], resolution: STATIC}".to_owned(), "spec.hosts"),
            ("{hosts: [a_b.test], resolution: STATIC}".to_owned(), "spec.hosts[0]"),
            ("{hosts: [a.test], endpoints: []}".to_owned(), "spec.endpoints"),
            (
                "{hosts: [a.test], resolution: STATIC, workloadSelector: {labels: {a: 'b*'}}}".to_owned(),
                "spec.workloadSelector.labels.a",
            ),
            (
                "{hosts: [a.test], resolution: DNS_ROUND_ROBIN, endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2}]}".to_owned(),
                "spec.endpoints",
            ),
            (
                "{hosts: [a.test], resolution: STATIC, endpoints: [{weight: 1}]}".to_owned(),
                "spec.endpoints[0].address",
            ),
            (
                "{hosts: [a.test], resolution: STATIC, endpoints: [{address: 'unix://a'}]}".to_owned(),
                "spec.endpoints[0].address",
            ),
            (
                "{hosts: [a.test], resolution: STATIC, ports: [{number: 1, name: Web}], endpoints: [{address: 'unix:///a', ports: {Web: 1}}]}".to_owned(),
                "spec.endpoints[0].ports",
            ),
            ("{hosts: [a.test], resolution: DNS, addresses: [x]}".to_owned(), "spec.addresses[0]"),
            (
                "{hosts: [a.test], resolution: DNS, addresses: [10.0.0.0/8]}".to_owned(),
                "spec.addresses",
            ),
            (
                "{hosts: [a.test], endpoints: [{address: 10.0.0.1}]}".to_owned(),
                "spec.endpoints",
            ),
            (
                "{hosts: [a.test], resolution: STATIC, workloadSelector: {}, endpoints: [{address: 10.0.0.1}]}".to_owned(),
                "spec.endpoints",
            ),
            (
                "{hosts: [a.test], resolution: STATIC, addresses: [10.0.0.1], endpoints: [{address: 10.0.0.1, ports: {http: 1}}]}".to_owned(),
                "spec.endpoints[0].ports.http",
            ),
            (
                "{hosts: [a.test, b.test], resolution: STATIC, addresses: [10.0.0.1], ports: [{number: 1, name: t, protocol: TCP}]}".to_owned(),
                "spec.ports[0].protocol",
            ),
        ] {
            let error = entry(&spec).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{spec}: {error}");
        }
    }

    #[test]
    fn fields_that_are_not_honoured_are_kept_to_be_told() {
        let found = |more: &str| {
            let spec =
                format!("{{hosts: [a.test], addresses: [10.0.0.1], resolution: STATIC{more}}}");
            let told = entry(&spec).unwrap().unwrap().spec.not_honoured;
            told.into_iter().map(|(field, _)| field).collect::<Vec<_>>()
        };
        assert!(found(", exportTo: ['*']").is_empty());
        assert_eq!(found(", exportTo: ['.']"), ["exportTo"]);
        assert_eq!(
            found(
                ", endpoints: [{address: 10.0.0.1, network: far}, {network: far}, {address: 'unix:///a'}]"
            ),
            [
                "endpoints[0].network",
                "endpoints[1].network",
                "endpoints[2].address"
            ]
        );
    }

    #[test]
    fn others_are_named() {
        for (spec, field) in [
            ("{hosts: [a.test], resolution: DNS}", "spec.resolution"),
            ("{hosts: [a.test], resolution: STATIC}", "spec.addresses"),
            ("{hosts: ['*.test'], resolution: STATIC}", "spec.hosts"),
        ] {
            let problem = entry(spec).unwrap().unwrap_err();
            assert_eq!(
                (problem.severity, problem.field.as_str()),
                (Severity::Ignored, field),
                "{spec}"
            );
        }
        assert_eq!(
            entry("{}").unwrap_err().field.as_deref(),
            Some("spec.hosts")
        );
    }
}
