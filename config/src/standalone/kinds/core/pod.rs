//! Pod: addresses, identity, readiness, and the names under which telemetry knows it.
//!
//! Readiness is the condition `Ready` alone: it is what the kubelet makes of containers and readiness gates. A
//! port that has a name may be a container's or a native sidecar's (an init container that restarts always).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object, ObjectMeta};
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::core::port::check_port_name;
use crate::standalone::kinds::core::port::{NamedPort, TargetPort, Transport};
use crate::standalone::kinds::known_fields::{KnownFields, Report};

const REDIRECTION: &str = "ambient.istio.io/redirection";
const TUNNEL: &str = "networking.istio.io/tunnel";
const TLS_MODE: &str = "security.istio.io/tlsMode";
const WORKLOAD_NAME: &str = "service.istio.io/workload-name";
/// Label that istiod sets on gateway pods and their Service.
pub const GATEWAY_MANAGED: &str = "gateway.istio.io/managed";
const CANONICAL_NAME: &[&str] = &[
    "service.istio.io/canonical-name",
    "app.kubernetes.io/name",
    "app",
];
const CANONICAL_REVISION: &[&str] = &[
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    pub service_account: String,
    pub node: String,
    pub addresses: Vec<IpAddr>,
    /// Its addresses are the node's, and other pods'.
    pub host_network: bool,
    pub ready: bool,
    /// It has the condition `Ready`, whatever that says.
    pub says_whether_ready: bool,
    /// `Succeeded` and `Failed` pods serve nothing.
    pub terminal: bool,
    /// Named ports, for a `targetPort` given by name: the first of its name and transport counts.
    pub ports: Vec<NamedPort>,
}

impl Pod {
    /// The number of the port that a service's `targetPort` means.
    pub fn port(&self, target: &TargetPort, transport: Transport) -> Option<u16> {
        match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => {
                let mut ports = self.ports.iter();
                let found = ports.find(|port| port.name == *name && port.transport == transport);
                found.map(|port| port.number)
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: String,
    /// The older name of the same.
    service_account: String,
    node_name: String,
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    restart_policy: String,
    ports: Vec<ContainerPort>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: String,
    container_port: u16,
    protocol: Transport,
}

impl Spec {
    /// Containers' ports, then those of native sidecars.
    fn ports(&self, manifest: &Manifest) -> Result<Vec<NamedPort>, LoadError> {
        let mut ports = Vec::new();
        for (list, containers, always) in [
            ("containers", &self.containers, false),
            ("initContainers", &self.init_containers, true),
        ] {
            for (container, found) in containers.iter().enumerate() {
                for (index, port) in found.ports.iter().enumerate() {
                    let refused = |field: &str, reason: String| {
                        let field = format!("spec.{list}[{container}].ports[{index}].{field}");
                        manifest.refused(field, reason)
                    };
                    if port.container_port == 0 {
                        let reason = "must be between 1 and 65535".to_owned();
                        return Err(refused("containerPort", reason));
                    }
                    if port.name.is_empty() {
                        continue;
                    }
                    check_port_name(&port.name).map_err(|reason| refused("name", reason))?;
                    if !always || found.restart_policy == "Always" {
                        ports.push(NamedPort {
                            name: port.name.clone(),
                            number: port.container_port,
                            transport: port.protocol,
                        });
                    }
                }
            }
        }
        Ok(ports)
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: IpAddr,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

impl Pod {
    pub fn read(manifest: &Manifest) -> Result<Object<Pod>, LoadError> {
        let spec: Spec = manifest.part("spec")?;
        let status: Status = manifest.part("status")?;
        let mut addresses: Vec<IpAddr> =
            status.pod_ips.into_iter().map(|pod_ip| pod_ip.ip).collect();
        if addresses.is_empty() {
            addresses.extend(status.pod_ip);
        }
        let ports = spec.ports(manifest)?;
        let pod = Pod {
            service_account: [spec.service_account_name, spec.service_account]
                .into_iter()
                .find(|name| !name.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            host_network: spec.host_network,
            node: spec.node_name,
            addresses,
            ready: status
                .conditions
                .iter()
                .any(|c| c.r#type == "Ready" && c.status == "True"),
            says_whether_ready: status.conditions.iter().any(|c| c.r#type == "Ready"),
            terminal: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            ports,
        };
        Ok(manifest.object(pod))
    }
}

/// What istiod derives from a pod's metadata.
impl Object<Pod> {
    /// Whether something in or before the pod takes HBONE on port 15008: a ztunnel, or the pod itself.
    pub fn takes_hbone(&self) -> bool {
        self.meta.annotation(REDIRECTION) == Some("enabled")
            || self.meta.label(TUNNEL) == Some("http")
            || self.is_gateway()
    }

    /// How it takes connections where it has a sidecar.
    pub fn tls_mode(&self) -> Option<&str> {
        let mode = self.meta.label(TLS_MODE);
        mode.filter(|mode| !matches!(*mode, "" | "disabled"))
    }

    /// A waypoint or other managed gateway: such pods have no waypoint themselves.
    pub fn is_gateway(&self) -> bool {
        self.meta.label(GATEWAY_MANAGED).is_some()
    }

    /// Name of the workload: the controller as far as the pod tells it, else the pod.
    pub fn workload_name(&self) -> &str {
        self.meta
            .label(WORKLOAD_NAME)
            .unwrap_or_else(|| controller_name(&self.meta))
    }

    /// Canonical name and revision.
    pub fn canonical(&self) -> (&str, &str) {
        canonical(&self.meta.labels, self.workload_name())
    }
}

/// Canonical name and revision of a workload with these labels.
pub fn canonical<'a>(
    labels: &'a BTreeMap<String, String>,
    workload: &'a str,
) -> (&'a str, &'a str) {
    let first = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| labels.get(*name))
            .map(String::as_str)
    };
    (
        first(CANONICAL_NAME).unwrap_or(workload),
        first(CANONICAL_REVISION).unwrap_or("latest"),
    )
}

/// Only pods with a generated name are asked for their controller. A ReplicaSet's name less the pod
/// template's hash is the Deployment, a Job's name less its timestamp the CronJob.
fn controller_name(meta: &ObjectMeta) -> &str {
    let controller = meta.owner_references.iter().find(|owner| owner.controller);
    let Some(controller) = controller.filter(|_| !meta.generate_name.is_empty()) else {
        return &meta.name;
    };
    let name = controller.name.as_str();
    match controller.kind.as_str() {
        "ReplicaSet" => ["pod-template-hash", "rollouts-pod-template-hash"]
            .iter()
            .filter_map(|label| meta.label(label).filter(|hash| !hash.is_empty()))
            .find_map(|hash| name.strip_suffix(hash)?.strip_suffix('-'))
            .unwrap_or(name),
        "ReplicationController" => meta.label("deploymentconfig").unwrap_or(name),
        "Job" => match name.rsplit_once('-') {
            Some((cron_job, stamp))
                if (8..=10).contains(&stamp.len()) && stamp.bytes().all(|c| c.is_ascii_digit()) =>
            {
                cron_job
            }
            _ => name,
        },
        _ => name,
    }
}

/// What the API knows of it.
pub(crate) const FIELDS: &[KnownFields] = &[
    ("", Report::Always, &["spec", "status"]),
    (
        "spec",
        Report::IfNear,
        &[
            "containers",
            "hostNetwork",
            "initContainers",
            "nodeName",
            "serviceAccountName",
        ],
    ),
    ("spec.containers[]", Report::IfNear, &["ports"]),
    (
        "spec.initContainers[]",
        Report::IfNear,
        &["ports", "restartPolicy"],
    ),
    (
        "spec.containers[].ports[]",
        Report::Always,
        &["containerPort", "hostIP", "hostPort", "name", "protocol"],
    ),
    (
        "status",
        Report::IfNear,
        &["conditions", "phase", "podIP", "podIPs"],
    ),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;

    fn pod(text: &str) -> Object<Pod> {
        let text = format!("apiVersion: v1\nkind: Pod\n{text}");
        Pod::read(&Manifest::of(&text)).unwrap()
    }

    #[test]
    fn named_ports_of_containers_and_native_sidecars() {
        let found = pod("metadata: {name: p}
spec:
  containers:
  - ports: [{name: web, containerPort: 53, protocol: UDP}, {name: web, containerPort: 8080}]
  - ports: [{name: web, containerPort: 9}]
  initContainers:
  - {restartPolicy: Always, ports: [{name: proxy, containerPort: 15000}]}
  - {ports: [{name: setup, containerPort: 1}]}")
        .spec;
        let port =
            |name: &str, transport| found.port(&TargetPort::Name(name.to_owned()), transport);
        assert_eq!(port("web", Transport::Tcp), Some(8080));
        assert_eq!(port("web", Transport::Udp), Some(53));
        assert_eq!(port("proxy", Transport::Tcp), Some(15000));
        assert_eq!(port("setup", Transport::Tcp), None);
        assert_eq!(found.port(&TargetPort::Number(7), Transport::Tcp), Some(7));
    }

    #[test]
    fn refuses_what_the_api_server_refuses() {
        for (ports, field) in [
            ("{name: web}", "containerPort"),
            ("{name: '8080', containerPort: 1}", "name"),
            ("{containerPort: 1, protocol: tcp}", "protocol"),
        ] {
            let text = format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{containers: [{{ports: [{ports}]}}]}}}}"
            );
            let error = Pod::read(&Manifest::of(&text)).unwrap_err();
            let expected = format!("spec.containers[0].ports[0].{field}");
            assert_eq!(error.field.as_deref(), Some(expected.as_str()), "{ports}");
        }
    }

    #[test]
    fn workload_names() {
        let owned = |kind: &str, name: &str, labels: &str| {
            pod(&format!(
                "metadata: {{name: p, generateName: p-, labels: {{{labels}}}, ownerReferences: [{{kind: {kind}, name: {name}, controller: true}}]}}"
            ))
        };
        let deployed = owned("ReplicaSet", "web-5d8", "pod-template-hash: 5d8, app: shop");
        assert_eq!(
            (deployed.workload_name(), deployed.canonical()),
            ("web", ("shop", "latest"))
        );
        assert_eq!(owned("Job", "night-28412345", "").workload_name(), "night");
        assert_eq!(owned("Job", "night-12", "").workload_name(), "night-12");
        assert_eq!(owned("StatefulSet", "db", "").workload_name(), "db");
        assert_eq!(pod("metadata: {name: bare}").canonical().0, "bare");
    }

    #[test]
    fn addresses_readiness_and_tunnel() {
        let found = pod(
            "metadata: {name: p, annotations: {ambient.istio.io/redirection: enabled}}\nstatus: {podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}",
        );
        assert!(found.takes_hbone() && found.spec.ready && !found.spec.terminal);
        assert_eq!(
            found.spec.addresses,
            ["10.0.0.1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(found.spec.service_account, "default");
        assert!(!pod("metadata: {name: p}").takes_hbone());
        let old = pod("metadata: {name: p}\nspec: {serviceAccount: a, hostNetwork: true}").spec;
        assert!(old.service_account == "a" && old.host_network);
    }
}
