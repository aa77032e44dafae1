//! ServiceEntry: a host outside Kubernetes, whose endpoints are given, looked up, or where the client wants to go.
//!
//! Hosts that begin with `*` and are looked up when requests name one (`DYNAMIC_DNS`) have no addresses but those that
//! were allocated.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::{LoadError, Problem, Severity};
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::istio::export_to::{self, NOBODY};
use crate::standalone::kinds::istio::service_entry_schema;
use crate::standalone::kinds::istio::service_entry_status;
use crate::standalone::kinds::istio::workload_entry::{EntryEndpoint, Unusable, WireEndpoint};
use crate::standalone::kinds::refusal::Refusal;
use crate::standalone::kinds::refusal::refusal;

/// Annotation: how one of a name's addresses is chosen.
const CONNECT_STRATEGY: &str = "istio.io/connect-strategy";
const USE_WAYPOINT: &str = "istio.io/use-waypoint";

/// Fields that could change where requests go and aren't honoured.
const NOT_HONOURED: &[&str] = &["subjectAltNames"];

#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    pub hosts: Vec<String>,
    pub resolution: EntryResolution,
    /// Namespaces whose proxies know of it, `.` and `*`; empty: as the mesh has it.
    pub export_to: Vec<String>,
    /// Those of the spec; empty where addresses were allocated.
    pub addresses: Vec<IpNet>,
    /// What istiod allocated, by host.
    allocated: BTreeMap<String, Vec<IpAddr>>,
    /// Whether hosts without addresses are given some.
    allocates: bool,
    pub ports: Vec<EntryPort>,
    pub endpoints: Vec<EntryEndpoint>,
    /// Labels of the pods and WorkloadEntries of its namespace that are its endpoints; empty ones select nobody.
    pub selector: Option<BTreeMap<String, String>>,
    /// Of the addresses of its names the first that answers is taken.
    pub races: bool,
    /// `location` is given. A waypoint reaches the endpoints of either alike.
    pub says_location: bool,
    /// `location: MESH_INTERNAL`: its endpoints may be sidecars.
    pub in_mesh: bool,
    /// Fields that are given and aren't honoured, with the reason.
    pub not_honoured: Vec<(String, String)>,
}

/// How the endpoints of an entry are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryResolution {
    /// Where the client wanted to go.
    None,
    Static,
    /// By name; all of its addresses are endpoints.
    Dns,
    /// By name; of its addresses the first counts.
    DnsRoundRobin,
    /// By the name that a request, or a TLS client, names.
    Dynamic,
}

impl EntryResolution {
    fn of(text: &str) -> Option<EntryResolution> {
        Some(match text {
            "" | "NONE" => EntryResolution::None,
            "STATIC" => EntryResolution::Static,
            "DNS" => EntryResolution::Dns,
            "DNS_ROUND_ROBIN" => EntryResolution::DnsRoundRobin,
            "DYNAMIC_DNS" => EntryResolution::Dynamic,
            _ => return None,
        })
    }

    pub fn looks_up(self) -> bool {
        matches!(self, EntryResolution::Dns | EntryResolution::DnsRoundRobin)
    }
}

impl ServiceEntry {
    /// Whether no more than one name is looked up for it.
    pub fn has_one_name(&self) -> bool {
        self.selector.is_none() && self.endpoints.len() < 2
    }

    /// The hosts that have no address yet and are to be given some.
    pub(crate) fn without_address(&self) -> impl Iterator<Item = &String> {
        let hosts = self.hosts.iter().filter(|_| self.allocates);
        hosts.filter(|host| !self.allocated.contains_key(*host))
    }

    /// Gives a host its addresses.
    pub(crate) fn allocate(&mut self, host: &str, addresses: Vec<IpAddr>) {
        self.allocated.insert(host.to_owned(), addresses);
    }

    /// The addresses that were allocated, of all hosts.
    pub(crate) fn allocated(&self) -> impl Iterator<Item = &IpAddr> {
        self.allocated.values().flatten()
    }

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
    workload_selector: Option<WorkloadSelector>,
    export_to: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkloadSelector {
    labels: BTreeMap<String, String>,
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

impl ServiceEntry {
    /// `Ok(Err(problem))` is an entry that is sound but not honoured.
    pub fn read(manifest: &Manifest) -> Result<Result<Object<ServiceEntry>, Problem>, LoadError> {
        let spec: Spec = manifest.part("spec")?;
        service_entry_schema::check(manifest)?;
        if spec.hosts.is_empty() {
            return Err(manifest.refused("spec.hosts", "is required"));
        }
        check_export_to(&spec.export_to, &manifest.meta.namespace)
            .and_then(|()| spec.check())
            .and_then(|()| spec.check_dynamic(manifest.meta.label(USE_WAYPOINT)))
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
        let allocated = service_entry_status::allocated(manifest)?;
        let Some(resolution) = EntryResolution::of(&spec.resolution) else {
            let reason = format!("{:?} is no resolution", spec.resolution);
            return Err(manifest.refused("spec.resolution", reason));
        };
        let allocates =
            spec.takes_allocated(resolution) && !service_entry_status::declines(manifest);
        if let Some((field, reason)) = spec.not_honoured(&allocated, allocates) {
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
            match endpoint.read(index, resolution.looks_up()) {
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
            resolution,
            export_to: spec.export_to,
            addresses,
            allocated,
            allocates,
            races: races(manifest),
            says_location: spec.location.is_some(),
            in_mesh: spec.location.as_deref() == Some("MESH_INTERNAL"),
            not_honoured,
            ports,
            endpoints,
            selector: spec.workload_selector.map(|selector| selector.labels),
        })))
    }
}

impl Spec {
    /// Whether its hosts may have addresses that were allocated.
    fn takes_allocated(&self, resolution: EntryResolution) -> bool {
        let wildcard = self.hosts.iter().any(|host| host.starts_with('*'));
        self.addresses.is_empty()
            && match resolution {
                EntryResolution::None => false,
                EntryResolution::Dynamic => true,
                EntryResolution::Static | EntryResolution::Dns | EntryResolution::DnsRoundRobin => {
                    !wildcard
                }
            }
    }

    /// Why the entry as a whole isn't honoured.
    fn not_honoured(
        &self,
        allocated: &BTreeMap<String, Vec<IpAddr>>,
        allocates: bool,
    ) -> Option<(&'static str, String)> {
        let mut hosts = self.hosts.iter();
        if allocates || !self.addresses.is_empty() || hosts.any(|host| allocated.contains_key(host))
        {
            return None;
        }
        let reason = "no address, and none is allocated: nobody can reach it";
        Some(("spec.addresses", reason.to_owned()))
    }

    /// What holds for hosts that are looked up when somebody names them.
    fn check_dynamic(&self, waypoint: Option<&str>) -> Result<(), Refusal> {
        const ONLY: &str = "may not be given with resolution DYNAMIC_DNS";
        if self.resolution != "DYNAMIC_DNS" {
            return Ok(());
        }
        let mut hosts = self.hosts.iter().enumerate();
        if let Some((index, host)) = hosts.find(|(_, host)| !host.starts_with('*')) {
            let reason = format!("{host:?} doesn't begin with *, as hosts do with DYNAMIC_DNS");
            return Err(refusal(format!("hosts[{index}]"), reason));
        }
        if !self.addresses.is_empty() {
            return Err(refusal("addresses", ONLY));
        }
        if self.endpoints.iter().flatten().next().is_some() {
            return Err(refusal("endpoints", ONLY));
        }
        for (index, port) in self.ports.iter().enumerate() {
            let protocol = Protocol::parse(&port.protocol);
            let carried = [
                Protocol::Http,
                Protocol::Http2,
                Protocol::Grpc,
                Protocol::Tls,
            ];
            if !carried.contains(&protocol) {
                let reason = "DYNAMIC_DNS takes HTTP, HTTP2, GRPC and TLS";
                return Err(refusal(format!("ports[{index}].protocol"), reason));
            }
        }
        let internal = self.location.as_deref() == Some("MESH_INTERNAL");
        let used = waypoint.is_some_and(|name| !name.is_empty() && name != "none");
        if internal && used {
            let reason = "MESH_INTERNAL doesn't go with DYNAMIC_DNS and a waypoint";
            return Err(refusal("location", reason));
        }
        Ok(())
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
        let looked_up = matches!(resolution, "DNS" | "DNS_ROUND_ROBIN");
        let has_endpoints = self.endpoints.iter().flatten().next().is_some();
        let mut hosts = self.hosts.iter().enumerate();
        let wildcard = hosts.find(|(_, host)| host.contains('*'));
        if let (Some((index, host)), true, false) = (wildcard, looked_up, has_endpoints) {
            let reason = format!("{host:?} can't be looked up, and there are no endpoints");
            return Err(refusal(format!("hosts[{index}]"), reason));
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

/// What istiod understands of the annotation.
fn races(manifest: &Manifest) -> bool {
    let strategy = manifest.meta.annotation(CONNECT_STRATEGY);
    strategy.is_some_and(|strategy| strategy.eq_ignore_ascii_case("RACE_FIRST_TCP_CONNECT"))
}

/// `~`, nobody, is for entries only.
fn check_export_to(to: &[String], namespace: &str) -> Result<(), Refusal> {
    match to {
        [only] if only == NOBODY => Ok(()),
        to if to.iter().any(|name| name == NOBODY) => {
            Err(refusal("exportTo", "\"~\" may have nothing beside it"))
        }
        to => export_to::check(to, namespace),
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
        assert_eq!(found.without_address().collect::<Vec<_>>(), ["b.test"]);
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
        assert!(found(", exportTo: ['.']").is_empty());
        assert_eq!(found(", subjectAltNames: [a]"), ["subjectAltNames"]);
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
        for spec in [
            "{hosts: [a.test]}",
            "{hosts: ['*.test'], resolution: STATIC}",
        ] {
            let problem = entry(spec).unwrap().unwrap_err();
            assert_eq!(
                (problem.severity, problem.field.as_str()),
                (Severity::Ignored, "spec.addresses"),
                "{spec}"
            );
        }
        assert_eq!(
            entry("{}").unwrap_err().field.as_deref(),
            Some("spec.hosts")
        );
    }

    #[test]
    fn hosts_that_are_looked_up_when_somebody_names_them() {
        let dynamic = |rest: &str| {
            entry(&format!(
                "{{hosts: ['*.test'], resolution: DYNAMIC_DNS{rest}}}"
            ))
        };
        let found = dynamic(", ports: [{number: 80, name: h, protocol: HTTP}]");
        let found = found.unwrap().unwrap().spec;
        assert_eq!(found.resolution, EntryResolution::Dynamic);
        assert_eq!(found.without_address().collect::<Vec<_>>(), ["*.test"]);
        for (rest, field) in [
            (", addresses: [10.0.0.1]", "spec.addresses"),
            (", endpoints: [{address: 10.0.0.1}]", "spec.endpoints"),
            (
                ", ports: [{number: 80, name: t, protocol: TCP}]",
                "spec.ports[0].protocol",
            ),
        ] {
            let error = dynamic(rest).unwrap_err();
            assert_eq!(error.field.as_deref(), Some(field), "{rest}: {error}");
        }
        for (spec, field) in [
            (
                "{hosts: [a.test], resolution: DYNAMIC_DNS}",
                "spec.hosts[0]",
            ),
            ("{hosts: ['*.test'], resolution: DNS}", "spec.hosts[0]"),
        ] {
            assert_eq!(
                entry(spec).unwrap_err().field.as_deref(),
                Some(field),
                "{spec}"
            );
        }
    }
}
