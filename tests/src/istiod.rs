//! A real istiod (`tests/istiod`) for a mesh, and the waypoint as its pod: the program itself, with the
//! arguments and environment of istiod's template.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::mesh::Mesh;
use crate::telemetry::{http_get, metric};
use crate::wait::{PATIENCE, until};

/// The address that istiod's deployment controller gives the waypoint's pod.
const POD_IP: &str = "10.1.250.1";

/// What istiod may have been answered.
pub const CLUSTER: &str = "cluster.v3.Cluster";
pub const EXTENSION: &str = "core.v3.TypedExtensionConfig";
pub const ENDPOINT: &str = "endpoint.v3.ClusterLoadAssignment";
pub const LISTENER: &str = "listener.v3.Listener";

/// Istio's discovery server and CA, reading the mesh's manifests.
pub struct Istiod {
    child: Child,
    address: SocketAddr,
    debug: SocketAddr,
    /// The API server, for istioctl.
    pub(crate) kubernetes: SocketAddr,
    log: PathBuf,
}

impl Istiod {
    /// Starts it and waits until it serves. `WAYPOINT_ISTIOD` names the program.
    ///
    /// # Panics
    /// It doesn't start.
    #[must_use]
    pub fn start(mesh: &Mesh) -> Istiod {
        Istiod::start_with(mesh, &[])
    }

    /// As [`Istiod::start`], with other variables in the environment.
    #[must_use]
    pub fn start_with(mesh: &Mesh, variables: &[(&str, &str)]) -> Istiod {
        // The waypoint's first pod, as istiod knows it.
        let pod = ("waypoint-0", SocketAddr::new(mesh.pod_ip(240), 15000));
        Istiod::start_forwarding(mesh, variables, &[pod])
    }

    /// The same; at these addresses are the admin ports of pods in the namespace `default`.
    #[must_use]
    pub fn start_forwarding(
        mesh: &Mesh,
        variables: &[(&str, &str)],
        pods: &[(&str, SocketAddr)],
    ) -> Istiod {
        let program =
            std::env::var("WAYPOINT_ISTIOD").expect("WAYPOINT_ISTIOD names tests/istiod's program");
        let (address, debug) = (
            SocketAddr::new(mesh.pod_ip(250), 15012),
            SocketAddr::new(mesh.pod_ip(250), 15014),
        );
        let ca = mesh.folder().join("ca");
        let (root, key) = (ca.join("root-cert.pem"), ca.join("ca-key.pem"));
        let log = mesh.folder().join("istiod.log");
        let errors = fs::File::create(&log).unwrap();
        let kubernetes = SocketAddr::new(mesh.pod_ip(250), 6443);
        let pods = pods.iter();
        let pods = pods.map(|(name, admin)| format!("default/{name}:15000={admin}"));
        let own = [
            format!("istio-system/istiod-0:15012={address}"),
            format!("istio-system/istiod-0:15014={debug}"),
        ];
        let forwards: Vec<String> = pods.chain(own).collect();
        let mut child = Command::new(program)
            .env("PILOT_ENABLE_AMBIENT", "true")
            .envs(variables.iter().copied())
            .args(["-kubernetes", &kubernetes.to_string()])
            .args(forwards.iter().flat_map(|forward| ["-forward", forward]))
            .arg("-f")
            .arg(mesh.manifests())
            .args([
                "-secure",
                &address.to_string(),
                "-debug",
                &debug.to_string(),
            ])
            .arg("-ca")
            .arg(format!("{0},{1},{0}", root.display(), key.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::from(errors))
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let serving = out.any(|line| line.is_ok_and(|line| line == "serving"));
        // It goes on writing, and a closed pipe would end it.
        std::thread::spawn(move || out.count());
        let istiod = Istiod {
            child,
            address,
            debug,
            kubernetes,
            log,
        };
        assert!(serving, "istiod doesn't start: {}", istiod.log());
        istiod
    }

    /// What `istioctl proxy-status` shows.
    pub async fn syncz(&self) -> serde_json::Value {
        let (_, text) = http_get(self.debug, "/debug/syncz").await;
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// How the pod took the last that it was sent of a kind; `None` if it hasn't said yet.
    pub async fn answer(&self, kind: &str) -> Option<Result<(), String>> {
        let status = self.syncz().await;
        let mut pods = status.as_array()?.iter();
        let pod = pods.find(|p| p["proxy"] == "waypoint-0.default")?;
        let state = &pod["resources"][format!("type.googleapis.com/envoy.config.{kind}")];
        match state["lastError"].as_str() {
            Some(error) => Some(Err(error.to_owned())),
            None => {
                (state["sent"].is_string() && state["sent"] == state["acked"]).then_some(Ok(()))
            }
        }
    }

    /// Waits until all that it sent was taken.
    pub async fn until_synced(&self) {
        for kind in [CLUSTER, ENDPOINT, LISTENER] {
            until(&format!("{kind} acknowledged"), async || {
                self.answer(kind).await?.ok()
            })
            .await;
        }
    }

    /// Waits until what it sent of a kind was refused, for this reason.
    pub async fn until_nacked(&self, kind: &str, reason: &str) {
        until(&format!("{kind} refused: {reason}"), async || {
            let error = self.answer(kind).await?.err()?;
            error.contains(reason).then_some(())
        })
        .await;
    }

    /// What it would send to the pod, as text.
    pub async fn config_dump(&self) -> String {
        let path = "/debug/config_dump?proxyID=waypoint-0.default";
        http_get(self.debug, path).await.1
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Istiod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The waypoint as a pod's container.
pub struct Pod {
    child: Child,
    pub hbone: SocketAddr,
    pub admin: SocketAddr,
    pub readiness: SocketAddr,
    pub stats: SocketAddr,
    log: PathBuf,
}

/// Names what the pod is annotated with, as the downward API writes it.
pub const ANNOTATIONS: &str = "POD_ANNOTATIONS";

impl Pod {
    /// Starts pod `n` of the mesh's waypoint.
    #[must_use]
    pub fn start(mesh: &Mesh, istiod: &Istiod, n: u8) -> Pod {
        Pod::start_with(mesh, istiod, n, &[])
    }

    /// As [`Pod::start`], with other variables in the environment; [`ANNOTATIONS`] is a file's.
    #[must_use]
    pub fn start_with(mesh: &Mesh, istiod: &Istiod, n: u8, variables: &[(&str, &str)]) -> Pod {
        let ip = mesh.pod_ip(n);
        let root = mesh.folder().join(format!("pod-{n}"));
        let secrets = root.join("var/run/secrets");
        for folder in ["tokens", "istio"] {
            fs::create_dir_all(secrets.join(folder)).unwrap();
        }
        fs::create_dir_all(root.join("etc/istio/pod")).unwrap();
        fs::copy(
            mesh.folder().join("ca/root-cert.pem"),
            secrets.join("istio/root-cert.pem"),
        )
        .unwrap();
        if let Some((_, annotations)) = variables.iter().find(|(name, _)| *name == ANNOTATIONS) {
            fs::write(root.join("etc/istio/pod/annotations"), annotations).unwrap();
        }
        // {"alg":"none"} . {"sub":"system:serviceaccount:default:waypoint"} . nothing
        let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6ZGVmYXVsdDp3YXlwb2ludCJ9.x";
        fs::write(secrets.join("tokens/istio-token"), token).unwrap();
        fs::write(
            root.join("etc/istio/pod/labels"),
            "gateway.istio.io/managed=\"istio.io-mesh-controller\"\ngateway.networking.k8s.io/gateway-name=\"waypoint\"\n",
        )
        .unwrap();
        let at = |port: u16| SocketAddr::new(ip, port);
        let log = root.join("log");
        let out = fs::File::create(&log).unwrap();
        let discovery = istiod.address.to_string();
        let child = Command::new(program())
            .args(["proxy", "waypoint", "--domain", "default.svc.cluster.local"])
            .args([
                "--serviceCluster",
                "waypoint.default",
                "--proxyLogLevel",
                "warning",
            ])
            .args([
                "--proxyComponentLogLevel",
                "misc:error",
                "--log_output_level",
                "default:info",
            ])
            .env_clear()
            .env("WAYPOINT_ROOT", &root)
            .env("WAYPOINT_HBONE_ADDR", at(15008).to_string())
            .env("WAYPOINT_ADMIN_ADDR", at(15000).to_string())
            .env("WAYPOINT_READINESS_ADDR", at(15021).to_string())
            .env("WAYPOINT_STATS_ADDR", at(15020).to_string())
            .env("WAYPOINT_PROMETHEUS_ADDR", at(15090).to_string())
            .env("ISTIOD_SAN", "istiod.istio-system.svc")
            .env(
                "PROXY_CONFIG",
                format!("{{\"discoveryAddress\": \"{discovery}\"}}\n"),
            )
            .env("CA_ADDR", &discovery)
            .env("POD_NAME", "waypoint-0")
            .env("POD_NAMESPACE", "default")
            .env("SERVICE_ACCOUNT", "waypoint")
            .env("INSTANCE_IP", POD_IP)
            .env("HOST_IP", Ipv4Addr::LOCALHOST.to_string())
            .env("TRUST_DOMAIN", "cluster.local")
            .env("ISTIO_CPU_LIMIT", "2")
            .env("ISTIO_META_CLUSTER_ID", "Kubernetes")
            .env("ISTIO_META_INTERCEPTION_MODE", "REDIRECT")
            .env("ISTIO_META_WORKLOAD_NAME", "waypoint")
            .env("ISTIO_META_MESH_ID", "cluster.local")
            .env("ISTIO_META_ENABLE_HBONE", "true")
            .envs(variables.iter().copied())
            .stdout(Stdio::from(out.try_clone().unwrap()))
            .stderr(Stdio::from(out))
            .spawn()
            .unwrap();
        Pod {
            child,
            hbone: at(15008),
            admin: at(15000),
            readiness: at(15021),
            stats: at(15020),
            log,
        }
    }

    /// Waits until it may get traffic.
    ///
    /// # Panics
    /// It doesn't get ready; says what it logged.
    pub async fn until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if TcpStream::connect(self.readiness).await.is_ok() {
                let (status, reason) = http_get(self.readiness, "/healthz/ready").await;
                if status == 200 {
                    return;
                }
                assert!(
                    Instant::now() < deadline,
                    "not ready: {reason}{}",
                    self.log()
                );
            }
            assert!(Instant::now() < deadline, "doesn't listen: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it has a certificate and a stream to istiod: readiness may be held back by what is refused.
    pub async fn until_started(&self) {
        for start in ["certificate issued", "connected to istiod"] {
            until(start, async || self.log().contains(start).then_some(())).await;
        }
    }

    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metric(
            &http_get(self.stats, "/stats/prometheus").await.1,
            name,
            labels,
        )
    }

    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGTERM; the exit code.
    ///
    /// # Panics
    /// It can't be signalled.
    pub async fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        until("the end of the pod", async || {
            self.child.try_wait().unwrap()
        })
        .await
        .code()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program under test: `WAYPOINT_BINARY`, or the one that cargo built beside this test.
fn program() -> PathBuf {
    if let Ok(path) = std::env::var("WAYPOINT_BINARY") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(2).unwrap();
    folder.join("waypoint-under-test")
}
