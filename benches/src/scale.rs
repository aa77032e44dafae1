//! Many services: memory, and what a push costs, the same resources pushed to the waypoint and to Envoy.
//!
//! Each proxy has a scripted istiod of its own (`waypoint_tests::ControlPlane`), which says what a real one
//! says when a service is added: all clusters, all endpoints, and the one listener with every service in it.
//! Envoy's resources lack Istio's own filters and workloads, which only the waypoint pays for.

use std::fs;
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_config::sources::xds::channel::ControlPlane as Address;
use waypoint_config::standalone::StandaloneSource;
use waypoint_hbone::pool::{PoolOptions, TunnelPool};
use waypoint_hbone::tls::{Tls, TrustDomains};
use waypoint_tests::envoy::{Envoy, Settings};
use waypoint_tests::{ControlPlane, Mesh, envoy_ads};

use crate::load::{Mode, Outcome};
use crate::process::{Process, cpu, peak, resident};
use crate::scene::{LOAD_CORE, PROXY_CORE, Proxy};
use crate::{Failure, median};

/// Endpoints of each service.
const ENDPOINTS: u32 = 5;
/// Services that are added one by one.
const ADDED: usize = 10;
/// For anything to come about.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests a second while pushes are made, and for how long.
const RATE: f64 = 1000.0;
const SECONDS: f64 = 5.0;

/// Services, and the proxies that have them.
struct Scale {
    folder: PathBuf,
    mesh: Mesh,
    services: u32,
    client: TunnelPool,
    _backend: Process,
    waypoint: Option<Process>,
    envoy: Option<Envoy>,
    istiods: [ControlPlane; 2],
    settings: Settings,
}

/// Measures with so many services and prints a table.
pub(crate) fn run(services: u32, waypoint: &Path, envoy: &Path) -> Result<(), Failure> {
    // Everything but the proxies shares the load's core.
    let own = std::process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["-cp", &LOAD_CORE.to_string(), &own])
        .output()?;
    if !pinned.status.success() {
        return Err("taskset".into());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(step_back)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut scale = Scale::new(services).await?;
        println!(
            "\n| {services} services of {ENDPOINTS} endpoints | waypoint | Envoy | ratio |\n|---|---|---|---|"
        );
        let start = [
            scale.start(Proxy::Waypoint, waypoint).await?,
            scale.start(Proxy::Envoy, envoy).await?,
        ];
        row("start to first answer, ms", start.map(millis));
        tokio::time::sleep(Duration::from_secs(3)).await;
        row("resident memory, MiB", scale.both(resident)?.map(mib));
        scale.add_services().await?;
        scale.tail_latency().await
    })
}

/// The istiods' threads leave the core to load and backend, which latency is measured by.
fn step_back() {
    let thread = fs::read_link("/proc/thread-self").unwrap_or_default();
    let id = thread.file_name().unwrap_or_default();
    let _ = Command::new("renice")
        .args(["-n", "19", "-p"])
        .arg(id)
        .output();
}

fn row(what: &str, [ours, theirs]: [f64; 2]) {
    println!(
        "| {what} | {ours:.1} | {theirs:.1} | **{:.2}** |",
        ours / theirs
    );
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn vip(service: u32) -> SocketAddr {
    let [_, b, c, d] = (service + 1).to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(10, 96 + b, c, d).into(), 80)
}

/// Every pod has an address of its own; the one backend listens on all of them.
fn pod(service: u32, n: u32) -> Ipv4Addr {
    let [_, _, c, d] = (service * ENDPOINTS + n + 1).to_be_bytes();
    Ipv4Addr::new(127, 40, c, d)
}

impl Scale {
    async fn new(services: u32) -> Result<Scale, Failure> {
        let mesh = Mesh::new();
        let folder = mesh.folder().to_owned();
        mesh.manifest("base.yaml", BASE);
        for service in 0..services {
            mesh.manifest(&format!("service-{service}.yaml"), &manifest(service));
        }
        for account in ["waypoint", "client"] {
            mesh.certificate("default", account)
                .write(&folder.join(account))?;
        }
        let own = std::env::current_exe()?.to_string_lossy().into_owned();
        let certs = folder.join("client").to_string_lossy().into_owned();
        let hbone = SocketAddr::new(mesh.pod_ip(252), 15008).to_string();
        let words = [own.as_str(), "backend", "--http", "0.0.0.0:18080"];
        let words = [&words[..], &["--hbone", &hbone, "--certs", &certs]].concat();
        let backend = Process::start(LOAD_CORE, &words, &folder.join("backend.log"))?;
        let certificate = mesh.certificate("default", "client").workload()?;
        let tls = Tls::new(Some(certificate), TrustDomains::default());
        let settings = Settings {
            hbone: SocketAddr::new(mesh.pod_ip(241), 15008),
            admin: SocketAddr::new(mesh.pod_ip(241), 15000),
            certs: folder.join("waypoint"),
        };
        let istiods = [
            ControlPlane::start(&mesh).await,
            ControlPlane::start(&mesh).await,
        ];
        let scale = Scale {
            folder,
            services,
            client: TunnelPool::new(tls, PoolOptions::default()),
            _backend: backend,
            waypoint: None,
            envoy: None,
            istiods,
            settings,
            mesh,
        };
        scale.translate()?;
        Ok(scale)
    }

    /// Gives both istiods what the manifests say now, without a push.
    fn translate(&self) -> Result<(), Failure> {
        let source = StandaloneSource::new(vec![self.mesh.manifests()], None);
        let resources = source.load()?.resources;
        let [ours, theirs] = &self.istiods;
        for istiod in &self.istiods {
            istiod.discovery.by_hand(true);
        }
        theirs
            .discovery
            .set(envoy_ads::resources(resources.clone(), &self.settings));
        ours.discovery.set(resources);
        Ok(())
    }

    fn istiod(&self, proxy: Proxy) -> &ControlPlane {
        let [ours, theirs] = &self.istiods;
        match proxy {
            Proxy::Waypoint => ours,
            Proxy::Envoy => theirs,
        }
    }

    fn address(&self, proxy: Proxy) -> SocketAddr {
        match proxy {
            Proxy::Waypoint => SocketAddr::new(self.mesh.pod_ip(240), 15008),
            Proxy::Envoy => self.settings.hbone,
        }
    }

    fn pid(&self, proxy: Proxy) -> u32 {
        match proxy {
            Proxy::Waypoint => self.waypoint.as_ref().map_or(0, Process::pid),
            Proxy::Envoy => self.envoy.as_ref().map_or(0, Envoy::pid),
        }
    }

    fn both(&self, of: fn(u32) -> Result<u64, Failure>) -> Result<[u64; 2], Failure> {
        Ok([of(self.pid(Proxy::Waypoint))?, of(self.pid(Proxy::Envoy))?])
    }

    /// Starts a proxy; how long until the first and the last service answer.
    async fn start(&mut self, proxy: Proxy, program: &Path) -> Result<Duration, Failure> {
        self.istiod(proxy).discovery.by_hand(false);
        let start = Instant::now();
        match proxy {
            Proxy::Waypoint => self.waypoint = Some(self.start_waypoint(program)?),
            Proxy::Envoy => self.envoy = Some(self.start_envoy(program)),
        }
        for service in [0, self.services - 1] {
            self.until_answer(proxy, service).await?;
        }
        Ok(start.elapsed())
    }

    fn start_waypoint(&self, program: &Path) -> Result<Process, Failure> {
        let root = self.folder.join("pod");
        let istiod = self.istiod(Proxy::Waypoint).address();
        mount(&root, &istiod)?;
        let ip = self.mesh.pod_ip(240);
        let at = |port: u16| SocketAddr::new(ip, port);
        let words = [
            "env".to_owned(),
            format!("WAYPOINT_ROOT={}", root.display()),
            format!("WAYPOINT_HBONE_ADDR={}", at(15008)),
            format!("WAYPOINT_ADMIN_ADDR={}", at(15000)),
            format!("WAYPOINT_READINESS_ADDR={}", at(15021)),
            format!("WAYPOINT_STATS_ADDR={}", at(15020)),
            format!("WAYPOINT_PROMETHEUS_ADDR={}", at(15090)),
            format!(
                "ISTIOD_SAN={}",
                istiod.server_name.as_deref().unwrap_or_default()
            ),
            format!(
                "PROXY_CONFIG={{\"discoveryAddress\": \"{}\"}}",
                istiod.address
            ),
            format!("CA_ADDR={}", istiod.address),
            "POD_NAME=waypoint-0".into(),
            "POD_NAMESPACE=default".into(),
            "SERVICE_ACCOUNT=waypoint".into(),
            "INSTANCE_IP=10.1.250.1".into(),
            "ISTIO_CPU_LIMIT=1".into(),
            program.to_string_lossy().into_owned(),
            "proxy".into(),
            "waypoint".into(),
            "--log_output_level=default:error".into(),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Process::start(PROXY_CORE, &words, &self.folder.join("waypoint.log"))
    }

    fn start_envoy(&self, program: &Path) -> Envoy {
        let istiod = self.istiod(Proxy::Envoy).address();
        let bootstrap = envoy_ads::bootstrap(&self.settings, &istiod);
        let core = PROXY_CORE.to_string();
        let words = ["taskset", "-c", &core, &program.to_string_lossy()];
        Envoy::start(&words, &bootstrap, &self.folder, self.settings.admin)
    }

    async fn until_answer(&self, proxy: Proxy, service: u32) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = tokio::time::timeout(Duration::from_secs(1), self.get(proxy, service));
            let error = match asked.await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".into(),
            };
            if Instant::now() > deadline {
                let log = self.folder.join("waypoint.log");
                let log = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("{proxy:?}, service {service}: {error}\n{log}").into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn get(&self, proxy: Proxy, service: u32) -> Result<(), Failure> {
        let to = vip(service).to_string();
        let tunnel = self
            .client
            .connect(self.address(proxy), &to, HeaderMap::new())
            .await?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(tunnel)).await?;
        tokio::spawn(driver);
        let request = Request::get("/")
            .header("host", "web")
            .body(Empty::<Bytes>::new())?;
        let status = sender.send_request(request).await?.status();
        if status == StatusCode::OK {
            Ok(())
        } else {
            Err(status.to_string().into())
        }
    }

    /// Says everything again, as istiod does.
    async fn push(&self, proxy: Proxy) -> Result<(), Failure> {
        let discovery = self.istiod(proxy).discovery.clone();
        let stream = discovery.stream(discovery.streams() - 1).await;
        let pushed = tokio::task::spawn_blocking(move || {
            for kind in [
                ResourceType::Cluster,
                ResourceType::Endpoints,
                ResourceType::Listener,
            ] {
                let resources: Vec<Resource> = discovery.resources(kind);
                stream.push(kind, &resources, &[]);
            }
        });
        Ok(pushed.await?)
    }

    /// Adds services one by one: how long until each answers, and what that costs.
    async fn add_services(&mut self) -> Result<(), Failure> {
        let mut times = [Vec::new(), Vec::new()];
        let mut costs = [Duration::ZERO; 2];
        for _ in 0..ADDED {
            let service = self.services;
            self.services += 1;
            let name = format!("service-{service}.yaml");
            self.mesh.manifest(&name, &manifest(service));
            self.translate()?;
            for (n, proxy) in Proxy::BOTH.into_iter().enumerate() {
                let before = cpu(self.pid(proxy))?;
                let start = Instant::now();
                // The listener waits for the new service's endpoints, which are asked for by name.
                self.istiod(proxy).discovery.by_hand(false);
                self.push(proxy).await?;
                self.until_answer(proxy, service).await?;
                times[n].push(millis(start.elapsed()));
                tokio::time::sleep(Duration::from_millis(500)).await;
                costs[n] += cpu(self.pid(proxy))? - before;
                self.istiod(proxy).discovery.by_hand(true);
            }
        }
        let each = |cost: Duration| millis(cost) / ADDED as f64;
        row(
            "a service is added: push to first answer, ms",
            times.map(|t| median(&t)),
        );
        row("a service is added: CPU, ms", costs.map(each));
        row("resident memory at most, MiB", self.both(peak)?.map(mib));
        Ok(())
    }

    /// Latency of requests to one service, alone and while all of it is pushed twice a second.
    async fn tail_latency(&self) -> Result<(), Failure> {
        for (what, pushes) in [
            ("p99 at 1000/s, µs", false),
            ("the same under pushes", true),
        ] {
            let mut p99 = [0.0; 2];
            for (n, proxy) in Proxy::BOTH.into_iter().enumerate() {
                let load = self.load(proxy);
                let pushing = async {
                    loop {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        if pushes && let Err(error) = self.push(proxy).await {
                            break error;
                        }
                    }
                };
                let outcome = tokio::select! {
                    outcome = load => outcome?,
                    error = pushing => return Err(error),
                };
                if outcome.errors > 0 {
                    return Err(format!("{proxy:?}: {outcome:?}").into());
                }
                p99[n] = outcome.p99_us as f64;
            }
            row(what, p99);
        }
        Ok(())
    }

    async fn load(&self, proxy: Proxy) -> Result<Outcome, Failure> {
        let own = std::env::current_exe()?.to_string_lossy().into_owned();
        let (via, to) = (self.address(proxy).to_string(), vip(0).to_string());
        let certs = self.folder.join("client").to_string_lossy().into_owned();
        let words = [
            own,
            "load".into(),
            "--via".into(),
            via,
            "--to".into(),
            to,
            "--certs".into(),
            certs,
            "--mode".into(),
            Mode::H1.word().into(),
            "--rate".into(),
            RATE.to_string(),
            "--seconds".into(),
            SECONDS.to_string(),
        ];
        // Started here: from one of the other threads it would inherit their patience.
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (_load, mut out) = Process::start_piped(LOAD_CORE, &words)?;
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            out.read_line(&mut line).map(|_| line)
        })
        .await??;
        serde_json::from_str(&line).map_err(|_| format!("the load ended: {line:?}").into())
    }
}

/// The files that a pod has mounted.
fn mount(root: &Path, istiod: &Address) -> Result<(), Failure> {
    let secrets = root.join("var/run/secrets");
    fs::create_dir_all(secrets.join("tokens"))?;
    fs::create_dir_all(secrets.join("istio"))?;
    fs::create_dir_all(root.join("etc/istio/pod"))?;
    fs::copy(&istiod.token, secrets.join("tokens/istio-token"))?;
    let istiods_root = istiod.root.as_ref().ok_or("no root")?;
    fs::copy(istiods_root, secrets.join("istio/root-cert.pem"))?;
    Ok(())
}

const BASE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    defaultProviders: {metrics: [prometheus]}
---
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: default}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"#;

fn manifest(service: u32) -> String {
    let ip = vip(service).ip();
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: service-{service}, namespace: default}}\n\
         spec: {{clusterIP: {ip}, selector: {{app: service-{service}}}, ports: [{{name: http, port: 80, targetPort: 18080}}]}}\n"
    );
    for n in 0..ENDPOINTS {
        let ip = pod(service, n);
        text.push_str(&format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: service-{service}-{n}, namespace: default, labels: {{app: service-{service}}}}}\n\
             spec: {{serviceAccountName: service-{service}, containers: [{{name: a, image: a}}]}}\n\
             status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}\n"
        ));
    }
    text
}
