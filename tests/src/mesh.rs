//! A mesh around one waypoint: a folder of manifests, a CA, pods on loopback addresses of their own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use waypoint_config::resource::Resource;
use waypoint_config::standalone::StandaloneSource;
use waypoint_hbone::certificates::dev_ca::{DevCa, MintedCertificate};
use waypoint_hbone::identity::Identity;
use waypoint_proxy::run::{
    AccessLogTarget, CertificateSource, ConfigSource, DrainTimes, RunOptions, Running, StartError,
    start,
};

use crate::app::App;
use crate::control_plane::ControlPlane;
use crate::pod_ztunnel::PodZtunnel;
use crate::telemetry::{http_get, metric};
use crate::wait::until;
use crate::ztunnel::Ztunnel;

const BASE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    defaultProviders:
      metrics: [prometheus]
---
apiVersion: v1
kind: Namespace
metadata:
  name: default
  labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}
---
apiVersion: v1
kind: Namespace
metadata: {name: other, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: default, labels: {istio.io/waypoint-for: all}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"#;

/// A day.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// Who has it is alone. Fair: stories get it in the order in which they asked.
static STAGE: Mutex<()> = Mutex::const_new(());

/// What a story plays in.
pub struct Mesh {
    net: u8,
    folder: PathBuf,
    pub ca: DevCa,
    _stage: Option<MutexGuard<'static, ()>>,
}

impl Mesh {
    /// A mesh with namespaces `default` and `other`, and the waypoint Gateway of `default`.
    #[must_use]
    pub fn new() -> Mesh {
        let mesh = Mesh::empty();
        mesh.manifest("base.yaml", BASE);
        mesh
    }

    /// The same for a story that measures, or gives the machine much to do: of those in one binary, one plays at a time.
    /// One that never asks may play beside it, so they are in a room of their own: `tests/hostile`.
    pub async fn alone() -> Mesh {
        let stage = STAGE.lock().await;
        let mut mesh = Mesh::new();
        mesh._stage = Some(stage);
        mesh
    }

    /// A mesh without any manifest.
    #[must_use]
    pub fn empty() -> Mesh {
        static NEXT: AtomicU8 = AtomicU8::new(20);
        // Peers and waypoint are one process here, with the descriptors of all.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        let net = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("waypoint-story-{}-{net}", std::process::id()));
        fs::create_dir_all(folder.join("manifests")).unwrap();
        let ca = DevCa::open_or_create(&folder.join("ca")).unwrap();
        Mesh {
            net,
            folder,
            ca,
            _stage: None,
        }
    }

    /// Writes a manifest at once, as `mv` does.
    pub fn manifest(&self, name: &str, text: &str) {
        let partial = self.folder.join("partial");
        fs::write(&partial, text).unwrap();
        fs::rename(partial, self.folder.join("manifests").join(name)).unwrap();
    }

    /// The mesh's access log has this format.
    pub fn access_log_format(&self, format: &str) {
        let file = "accessLogFile: /dev/stdout";
        let setting = serde_json::to_string(format).unwrap();
        let base = BASE.replace(file, &format!("{file}\n    accessLogFormat: {setting}"));
        self.manifest("base.yaml", &base);
    }

    /// The mesh's paths are normalized so. To be said after the access log's format.
    pub fn normalizes_paths(&self, normalization: &str) {
        let path = self.folder.join("manifests/base.yaml");
        let base = fs::read_to_string(path).unwrap();
        let file = "accessLogFile: /dev/stdout";
        let setting = format!("pathNormalization: {{normalization: {normalization}}}");
        self.manifest(
            "base.yaml",
            &base.replace(file, &format!("{file}\n    {setting}")),
        );
    }

    /// The waypoint's Gateway has this annotation. To be said after the access log's format.
    pub fn annotates_gateway(&self, annotation: &str) {
        let path = self.folder.join("manifests/base.yaml");
        let base = fs::read_to_string(path).unwrap();
        let labels = "labels: {istio.io/waypoint-for: all}";
        let both = format!("{labels}, annotations: {{{annotation}}}");
        self.manifest("base.yaml", &base.replace(labels, &both));
    }

    pub fn remove_manifest(&self, name: &str) {
        fs::remove_file(self.folder.join("manifests").join(name)).unwrap();
    }

    /// The address of pod `n`.
    #[must_use]
    pub fn pod_ip(&self, n: u8) -> IpAddr {
        // Another process that tests at the same time has other addresses.
        let process = (std::process::id() % 250) as u8;
        Ipv4Addr::new(127, self.net, process, n).into()
    }

    /// The virtual address of service `n`, port 80.
    #[must_use]
    pub fn vip(&self, n: u8) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(10, 96, self.net, n).into(), 80)
    }

    /// Describes a pod without starting anything.
    pub fn describe_pod(&self, n: u8, name: &str, app: &str, captured: bool) {
        let redirection = if captured {
            "annotations: {ambient.istio.io/redirection: enabled}, "
        } else {
            ""
        };
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, {redirection}\
             labels: {{app: {app}, version: v1}}}}\n\
             spec: {{serviceAccountName: {app}, containers: [{{name: a, image: a, ports: [{{containerPort: 8080}}]}}]}}\n\
             status: {{phase: Running, podIP: {}, conditions: [{{type: Ready, status: 'True'}}]}}\n",
            self.pod_ip(n)
        );
        self.manifest(&format!("pod-{name}.yaml"), &text);
    }

    /// Describes service `n` of the pods with label `app: name`: port 80 named `http`, to 8080.
    pub fn service(&self, n: u8, name: &str) -> SocketAddr {
        self.service_with_port(n, name, "{name: http, port: 80, targetPort: 8080}")
    }

    /// As [`Mesh::service`], with another port.
    pub fn service_with_port(&self, n: u8, name: &str, port: &str) -> SocketAddr {
        let vip = self.vip(n);
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{clusterIP: {}, selector: {{app: {name}}}, ports: [{port}]}}\n",
            vip.ip()
        );
        self.manifest(&format!("service-{name}.yaml"), &text);
        vip
    }

    /// Service `n` of one plain pod in which nothing runs: the service's address, and where its backend is to listen.
    pub fn bare_service(&self, n: u8, name: &str) -> (SocketAddr, SocketAddr) {
        self.describe_pod(n, &format!("{name}-1"), name, false);
        (self.service(n, name), self.backend(n))
    }

    /// As [`Mesh::bare_service`], for raw TCP.
    pub fn bare_tcp_service(&self, n: u8, name: &str) -> (SocketAddr, SocketAddr) {
        self.describe_pod(n, &format!("{name}-1"), name, false);
        let tcp = "{name: tcp, port: 80, targetPort: 8080}";
        (self.service_with_port(n, name, tcp), self.backend(n))
    }

    /// Where the backend in pod `n` listens.
    #[must_use]
    pub fn backend(&self, n: u8) -> SocketAddr {
        SocketAddr::new(self.pod_ip(n), 8080)
    }

    /// A service with one plain pod that speaks HTTP; both have the number `n`.
    pub async fn http_service(&self, n: u8, name: &str) -> (SocketAddr, App) {
        let (to, backend) = self.bare_service(n, name);
        (to, App::http(backend, name).await)
    }

    /// A service with one pod behind a ztunnel.
    pub async fn captured_service(&self, n: u8, name: &str) -> (SocketAddr, App, PodZtunnel) {
        self.describe_pod(n, &format!("{name}-1"), name, true);
        let app = App::http(self.backend(n), name).await;
        let ztunnel = PodZtunnel::start(self.pod_ip(n), &self.certificate("default", name)).await;
        (self.service(n, name), app, ztunnel)
    }

    /// A certificate for a service account.
    #[must_use]
    pub fn certificate(&self, namespace: &str, account: &str) -> MintedCertificate {
        let identity = Identity::istio("cluster.local", namespace, account).unwrap();
        self.ca.mint(&identity, TTL).unwrap()
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the manifests are.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// The manifests as the resources that istiod would make of them.
    #[must_use]
    pub fn resources(&self) -> Vec<Resource> {
        let source = StandaloneSource::new(vec![self.manifests()], None);
        source.load().unwrap().resources
    }

    /// Starts the waypoint and connects its usual client, `curl` in the namespace `default`.
    pub async fn started(&self) -> (Waypoint, Ztunnel) {
        let waypoint = self.start().await;
        let client = self.client(&waypoint, "default", "curl").await;
        (waypoint, client)
    }

    /// As [`Mesh::started`], with this istiod.
    pub async fn started_under(&self, istiod: &ControlPlane) -> (Waypoint, Ztunnel) {
        let waypoint = self.start_under(istiod).await;
        let client = self.client(&waypoint, "default", "curl").await;
        (waypoint, client)
    }

    /// Starts the waypoint.
    pub async fn start(&self) -> Waypoint {
        self.try_start().await.unwrap()
    }

    /// Starts the waypoint with settings of the story's own.
    pub async fn start_with(&self, change: impl FnOnce(&mut RunOptions)) -> Waypoint {
        let mut options = self.standalone();
        change(&mut options);
        self.try_start_with(options).await.unwrap()
    }

    /// Starts the waypoint, which may refuse.
    pub async fn try_start(&self) -> Result<Waypoint, StartError> {
        self.try_start_with(self.standalone()).await
    }

    /// As [`Mesh::try_start`], with another source of certificates and another time to drain.
    pub async fn try_start_as(
        &self,
        certificates: CertificateSource,
        drain: Duration,
    ) -> Result<Waypoint, StartError> {
        let options = RunOptions {
            certificates,
            drain: DrainTimes::at_most(drain),
            ..self.standalone()
        };
        self.try_start_with(options).await
    }

    fn standalone(&self) -> RunOptions {
        let source = ConfigSource::Manifests {
            paths: vec![self.manifests()],
            gateway: None,
        };
        self.options(source, CertificateSource::DevCa(self.folder.join("ca")))
    }

    /// Starts the waypoint with this istiod, and waits until it is ready.
    pub async fn start_under(&self, istiod: &ControlPlane) -> Waypoint {
        let waypoint = self
            .try_start_with(self.options(istiod.source(), istiod.certificates()))
            .await
            .unwrap();
        waypoint.until_ready().await;
        waypoint
    }

    /// Settings for a story: ports and log of its own, and no patience with files.
    #[must_use]
    pub fn options(&self, source: ConfigSource, certificates: CertificateSource) -> RunOptions {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        RunOptions {
            hbone_addr: SocketAddr::new(self.pod_ip(254), 0),
            admin_addr: any,
            readiness_addr: any,
            stats_addr: any,
            poll: Duration::from_millis(40),
            access_log: AccessLogTarget::File(self.folder.join("access.log")),
            drain: DrainTimes::at_most(Duration::from_secs(5)),
            ..RunOptions::new(source, certificates)
        }
    }

    /// Starts the waypoint with [`Mesh::options`], or what a story made of them.
    pub async fn try_start_with(&self, options: RunOptions) -> Result<Waypoint, StartError> {
        let log = self.folder.join("access.log");
        let running = start(options).await?;
        Ok(Waypoint { running, log })
    }

    /// A ztunnel for a client with this service account, connected.
    pub async fn client(&self, waypoint: &Waypoint, namespace: &str, account: &str) -> Ztunnel {
        let certificate = self.certificate(namespace, account);
        Ztunnel::connect(waypoint.running.hbone_addr, &certificate)
            .await
            .unwrap()
    }
}

impl Default for Mesh {
    fn default() -> Mesh {
        Mesh::new()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The running waypoint.
pub struct Waypoint {
    pub running: Running,
    log: PathBuf,
}

impl Waypoint {
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.running.hbone_addr
    }

    /// What the readiness port says: status and reason.
    pub async fn readiness(&self) -> (u16, String) {
        http_get(self.running.readiness_addr, "/healthz/ready").await
    }

    pub async fn until_ready(&self) {
        until("readiness", async || {
            (self.readiness().await.0 == 200).then_some(())
        })
        .await;
    }

    /// All metrics as text.
    pub async fn metrics(&self) -> String {
        http_get(self.running.stats_addr, "/stats/prometheus")
            .await
            .1
    }

    /// The sum of a metric's series with these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metric(&self.metrics().await, name, labels)
    }

    /// Waits until a metric has this value.
    pub async fn until_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        until(&format!("{name}{labels:?} = {value}"), async || {
            (self.metric(name, labels).await == value).then_some(())
        })
        .await;
    }

    /// Waits for a line of the access log with this in it.
    pub async fn until_logged(&self, part: &str) -> String {
        until(&format!("a log line with {part:?}"), async || {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            log.lines()
                .find(|line| line.contains(part))
                .map(str::to_owned)
        })
        .await
    }

    /// The access log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What of the configuration isn't honoured.
    pub async fn problems(&self) -> String {
        http_get(self.running.admin_addr, "/problems").await.1
    }

    /// What a path of the admin port says.
    pub async fn admin(&self, path: &str) -> String {
        http_get(self.running.admin_addr, path).await.1
    }

    /// Waits until `/problems` has this in it.
    pub async fn until_problem(&self, part: &str) -> String {
        until(&format!("a problem with {part:?}"), async || {
            let problems = self.problems().await;
            problems.contains(part).then_some(problems)
        })
        .await
    }
}
