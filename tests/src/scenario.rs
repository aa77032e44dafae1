//! Bookinfo in an ambient cluster, one scenario on top of it, and a real istiod that configures the waypoint's
//! pod from both.
//!
//! The manifests are those whose resources were recorded (`config/tests/fixtures`). Only what can't be had on
//! one machine is exchanged: pods get loopback addresses, where scripted ones listen, and the access log is on.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use waypoint_hbone::certificates::dev_ca::MintedCertificate;
use waypoint_hbone::identity::Identity;

use crate::app::App;
use crate::istiod::{Istiod, Pod};
use crate::mesh::Mesh;
use crate::pod_ztunnel::PodZtunnel;
use crate::telemetry::http_get;
use crate::wait::until;
use crate::ztunnel::Ztunnel;

/// The manifests that every scenario stands on, in the mesh's folder.
pub const BOOKINFO: &str = "1-bookinfo.yaml";
const SCENARIO: &str = "2-scenario.yaml";

/// Where the waypoint's pod listens, of the mesh's addresses.
const WAYPOINT: u8 = 240;

/// A pod of the manifests.
struct PodOf {
    name: &'static str,
    namespace: &'static str,
    account: &'static str,
    /// Its address in the manifests; its number in the mesh.
    address: (&'static str, u8),
    /// Whether a ztunnel stands before it.
    captured: bool,
}

const fn pod(name: &'static str, account: &'static str, address: (&'static str, u8)) -> PodOf {
    PodOf {
        name,
        namespace: "default",
        account,
        address,
        captured: true,
    }
}

const fn elsewhere(name: &'static str, address: (&'static str, u8), captured: bool) -> PodOf {
    PodOf {
        name,
        namespace: "other",
        account: name,
        address,
        captured,
    }
}

const PODS: [PodOf; 12] = [
    pod("productpage-v1", "bookinfo-productpage", ("10.42.2.6", 1)),
    pod("details-v1", "bookinfo-details", ("10.42.2.4", 2)),
    pod("ratings-v1", "bookinfo-ratings", ("10.42.0.4", 3)),
    pod("reviews-v1", "bookinfo-reviews", ("10.42.2.5", 4)),
    pod("reviews-v2", "bookinfo-reviews", ("10.42.0.5", 5)),
    pod("reviews-v3", "bookinfo-reviews", ("10.42.2.7", 6)),
    pod("curl", "curl", ("10.42.2.20", 7)),
    pod("vm", "vm", ("192.0.2.50", 8)),
    elsewhere("stranger", ("10.42.0.20", 9), true),
    elsewhere("legacy", ("10.42.0.21", 10), false),
    elsewhere("static-near", ("192.0.2.10", 11), false),
    elsewhere("static-far", ("192.0.2.11", 12), false),
];

/// Services of Bookinfo, all on port 9080.
const SERVICES: [(&str, &str); 7] = [
    ("productpage", "10.43.172.254"),
    ("details", "10.43.160.119"),
    ("ratings", "10.43.71.236"),
    ("reviews", "10.43.162.105"),
    ("reviews-v1", "10.43.162.106"),
    ("reviews-v2", "10.43.162.107"),
    ("reviews-v3", "10.43.162.108"),
];

/// The address of a service of Bookinfo.
///
/// # Panics
/// There is none of this name.
#[must_use]
pub fn service(name: &str) -> SocketAddr {
    let known = SERVICES.iter().find(|(service, _)| *service == name);
    let (_, address) = known.unwrap();
    SocketAddr::new(address.parse().unwrap(), 9080)
}

/// A scenario that plays.
pub struct Scenario {
    pub pod: Pod,
    pub istiod: Istiod,
    pub mesh: Mesh,
    apps: BTreeMap<&'static str, App>,
    ztunnels: BTreeMap<&'static str, PodZtunnel>,
    trust_domain: String,
    text: String,
}

impl Scenario {
    /// Starts `config/tests/fixtures/NAME.yaml`.
    pub async fn start(name: &str) -> Scenario {
        Scenario::start_with(name, &[], |text| text).await
    }

    /// As [`Scenario::start`]; the waypoint's pod has these variables, the scenario is changed before it begins.
    pub async fn start_with(
        name: &str,
        variables: &[(&str, &str)],
        change: impl FnOnce(String) -> String,
    ) -> Scenario {
        let mesh = Mesh::empty();
        mesh.manifest(BOOKINFO, &manifest(&mesh, "bookinfo"));
        let text = change(manifest(&mesh, name));
        mesh.manifest(SCENARIO, &text);
        let variable = variables.iter().find(|(name, _)| *name == "TRUST_DOMAIN");
        let trust_domain = variable.map_or("cluster.local", |(_, value)| value);
        let (mut apps, mut ztunnels) = (BTreeMap::new(), BTreeMap::new());
        for pod in PODS {
            let ip = mesh.pod_ip(pod.address.1);
            let port = if pod.captured { 9080 } else { 8080 };
            let app = App::http(SocketAddr::new(ip, port), pod.name).await;
            apps.insert(pod.name, app);
            if pod.captured {
                let own = certificate(&mesh, trust_domain, pod.namespace, pod.account);
                ztunnels.insert(pod.name, PodZtunnel::start(ip, &own).await);
            }
        }
        let istiod = Istiod::start(&mesh);
        let pod = Pod::start_with(&mesh, &istiod, WAYPOINT, variables);
        let scenario = Scenario {
            trust_domain: trust_domain.to_owned(),
            pod,
            istiod,
            mesh,
            apps,
            ztunnels,
            text,
        };
        scenario.pod.until_started().await;
        scenario
    }

    /// Changes the scenario's manifests while it plays.
    pub fn change(&mut self, change: impl FnOnce(&str) -> String) {
        self.text = change(&self.text);
        self.mesh.manifest(SCENARIO, &self.text);
    }

    /// The application in a pod.
    #[must_use]
    pub fn app(&self, pod: &str) -> &App {
        &self.apps[pod]
    }

    /// The ztunnel before a pod.
    #[must_use]
    pub fn ztunnel(&self, pod: &str) -> &PodZtunnel {
        &self.ztunnels[pod]
    }

    /// The address of a pod, at this port.
    ///
    /// # Panics
    /// There is none of this name.
    #[must_use]
    pub fn pod_address(&self, pod: &str, port: u16) -> SocketAddr {
        let pod = PODS.iter().find(|p| p.name == pod).unwrap();
        SocketAddr::new(self.mesh.pod_ip(pod.address.1), port)
    }

    /// The ztunnel of a client pod, connected from the pod's address.
    pub async fn client(&self, pod: &str) -> Ztunnel {
        let of = PODS.iter().find(|p| p.name == pod).unwrap();
        let identity = (self.trust_domain.as_str(), of.namespace, of.account);
        self.client_as(pod, identity).await
    }

    /// A client with another identity, connected from this pod's address.
    pub async fn client_as(
        &self,
        pod: &str,
        (trust_domain, namespace, account): (&str, &str, &str),
    ) -> Ztunnel {
        let own = certificate(&self.mesh, trust_domain, namespace, account);
        let source = self.pod_address(pod, 0).ip();
        Ztunnel::connect_from(source, self.pod.hbone, &own)
            .await
            .unwrap()
    }

    /// Waits until what isn't honoured is exactly this: the resource, and a part of the reason.
    ///
    /// # Panics
    /// It never is; says what was refused instead.
    pub async fn until_refused(&self, expected: &[(&str, &str)]) {
        let matches = |line: &str, (resource, reason): (&str, &str)| {
            line.starts_with(&format!("{resource}: ")) && line.contains(reason)
        };
        let mut problems = String::new();
        for _ in 0..200 {
            problems = http_get(self.pod.admin, "/problems").await.1;
            let lines: Vec<_> = problems.lines().collect();
            let all = lines.len() == expected.len()
                && expected
                    .iter()
                    .all(|e| lines.iter().any(|line| matches(line, *e)));
            if all {
                return;
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        panic!("expected {expected:#?}, refused is\n{problems}");
    }

    /// Waits until this of a resource is among what isn't honoured.
    pub async fn until_named(&self, resource: &str, reason: &str) {
        until(&format!("{resource}: {reason}"), async || {
            let (_, problems) = http_get(self.pod.admin, "/problems").await;
            let of_it = |line: &str| line.starts_with(&format!("{resource}: "));
            let mut lines = problems.lines().filter(|line| of_it(line));
            lines.any(|line| line.contains(reason)).then_some(())
        })
        .await;
    }

    /// Waits until a service answers a GET with this status.
    pub async fn until_status(&self, client: &Ztunnel, to: SocketAddr, path: &str, status: u16) {
        until(&format!("{status} from {to}{path}"), async || {
            let (granted, _) = client.connect_to(&to.to_string(), &[]).await.ok()?;
            if granted != StatusCode::OK {
                return None;
            }
            (client.get(to, path).await.status == status).then_some(())
        })
        .await;
    }

    /// Waits for a line of what the waypoint logged with all these in it.
    pub async fn until_logged(&self, parts: &[&str]) -> String {
        until(&format!("a log line with {parts:?}"), async || {
            let log = self.pod.log();
            let mut lines = log.lines();
            let line = lines.find(|line| parts.iter().all(|part| line.contains(part)));
            line.map(str::to_owned)
        })
        .await
    }

    /// Waits until a metric has this value.
    pub async fn until_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        until(&format!("{name}{labels:?} = {value}"), async || {
            (self.pod.metric(name, labels).await == value).then_some(())
        })
        .await;
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("istiod:\n{}", self.istiod.log());
            eprintln!("waypoint:\n{}", self.pod.log());
        }
    }
}

/// The manifests without the lines that have one of these in them.
#[must_use]
pub fn without_lines(text: &str, parts: &[&str]) -> String {
    let kept = |line: &&str| !parts.iter().any(|part| line.contains(part));
    text.split_inclusive('\n').filter(kept).collect()
}

/// The manifests without the objects that have one of these in them.
#[must_use]
pub fn without_objects(text: &str, parts: &[&str]) -> String {
    let kept = |object: &&str| !parts.iter().any(|part| object.contains(part));
    let objects: Vec<_> = text.split("\n---\n").filter(kept).collect();
    objects.join("\n---\n")
}

fn certificate(
    mesh: &Mesh,
    trust_domain: &str,
    namespace: &str,
    account: &str,
) -> MintedCertificate {
    let identity = Identity::istio(trust_domain, namespace, account).unwrap();
    mesh.ca
        .mint(&identity, Duration::from_secs(24 * 3600))
        .unwrap()
}

/// A fixture, with the addresses of this mesh.
fn manifest(mesh: &Mesh, name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/tests/fixtures");
    let mut text = fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
    for pod in PODS {
        let (from, number) = pod.address;
        for end in [",", "]", "}", "\n"] {
            let to = mesh.pod_ip(number);
            text = text.replace(&format!("{from}{end}"), &format!("{to}{end}"));
        }
    }
    let IpAddr::V4(any) = mesh.pod_ip(0) else {
        unreachable!("the mesh has IPv4 addresses")
    };
    let [a, b, ..] = any.octets();
    text = text.replace("10.42.0.0/16", &format!("{a}.{b}.0.0/16"));
    // A port that anybody may listen on.
    text = text.replace(
        "{name: http, port: 80, protocol: TCP}",
        "{name: http, port: 8080, protocol: TCP}",
    );
    text = text.replace("    accessLogFile: \"\"\n", "");
    if !text.contains("accessLogFile:") {
        text = text.replace("  mesh: |\n", "  mesh: |\n    accessLogFile: /dev/stdout\n");
    }
    text
}
