//! One arrangement under measurement: manifests, a backend, and the waypoint and Envoy as the same waypoint.
//!
//! Both proxies get the same certificate, backend and resources (Envoy less Istio's own filters, which
//! only the waypoint pays for) and one core of their own; load and backend share the other.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use waypoint_config::standalone::StandaloneSource;
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::identity::Identity;
use waypoint_tests::envoy::{Envoy, Settings, bootstrap};

use crate::Failure;
use crate::backend::COUNT;
use crate::load::{Mode, Outcome};
use crate::process::Process;

/// The proxies' core, and everybody else's.
pub(crate) const PROXY_CORE: usize = 1;
pub(crate) const LOAD_CORE: usize = 0;

const POD: Ipv4Addr = Ipv4Addr::new(127, 30, 0, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 30, 1);
const WAYPOINT: Ipv4Addr = Ipv4Addr::new(127, 30, 0, 10);
const ENVOY: Ipv4Addr = Ipv4Addr::new(127, 30, 0, 11);
const TTL: Duration = Duration::from_secs(24 * 3600);

/// What a row arranges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrangement {
    pub(crate) hbone_upstream: bool,
    /// Rules of the one ALLOW policy; the last one lets the load in. 0: no policy.
    pub(crate) rules: usize,
    pub(crate) access_log: bool,
}

/// Everything that runs for one row.
pub(crate) struct Scene {
    folder: PathBuf,
    _backend: Process,
    waypoint: Process,
    envoy: Envoy,
}

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Waypoint,
    Envoy,
}

impl Proxy {
    pub(crate) const BOTH: [Proxy; 2] = [Proxy::Waypoint, Proxy::Envoy];

    pub(crate) fn address(self) -> SocketAddr {
        let ip = if self == Proxy::Waypoint {
            WAYPOINT
        } else {
            ENVOY
        };
        SocketAddr::new(ip.into(), 15008)
    }
}

impl Scene {
    pub(crate) fn start(
        arrangement: Arrangement,
        waypoint: &Path,
        envoy: &Path,
        folder: &Path,
    ) -> Result<Scene, Failure> {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder.join("manifests"))?;
        fs::write(folder.join("manifests/all.yaml"), manifests(arrangement))?;
        let ca = DevCa::open_or_create(&folder.join("ca"))?;
        for account in ["waypoint", "web", "client"] {
            let identity = Identity::istio("cluster.local", "default", account)?;
            ca.mint(&identity, TTL)?.write(&folder.join(account))?;
        }
        let own = std::env::current_exe()?;
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let http = SocketAddr::new(POD.into(), 8080).to_string();
        let hbone = SocketAddr::new(POD.into(), 15008).to_string();
        let certs = path(&folder.join("web"));
        let backend = Process::start(
            LOAD_CORE,
            &[
                &path(&own),
                "backend",
                "--http",
                &http,
                "--hbone",
                &hbone,
                "--certs",
                &certs,
            ],
            &folder.join("backend.log"),
        )?;
        let at = |port: u16| SocketAddr::new(WAYPOINT.into(), port).to_string();
        let waypoint = Process::start(
            PROXY_CORE,
            &[
                &path(waypoint),
                "run",
                "-f",
                &path(&folder.join("manifests")),
                "--certs",
                &path(&folder.join("waypoint")),
                "--concurrency",
                "1",
                "--hbone-addr",
                &at(15008),
                "--admin-addr",
                &at(15000),
                "--readiness-addr",
                &at(15021),
                "--stats-addr",
                &at(15020),
            ],
            &folder.join("waypoint.log"),
        )?;
        let envoy = start_envoy(folder, envoy)?;
        listening(Proxy::Waypoint.address(), &folder.join("waypoint.log"))?;
        listening(
            SocketAddr::new(POD.into(), 8080),
            &folder.join("backend.log"),
        )?;
        Ok(Scene {
            folder: folder.to_owned(),
            _backend: backend,
            waypoint,
            envoy,
        })
    }

    pub(crate) fn pid(&self, proxy: Proxy) -> u32 {
        match proxy {
            Proxy::Waypoint => self.waypoint.pid(),
            Proxy::Envoy => self.envoy.pid(),
        }
    }

    /// Where the development CA and the certificates are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The service that the load asks for.
    pub(crate) fn service() -> SocketAddr {
        SocketAddr::new(VIP.into(), 80)
    }

    /// Runs the load against a proxy to its end, or until it holds its tunnels.
    pub(crate) fn load(
        &self,
        proxy: Proxy,
        mode: Mode,
        options: &[String],
    ) -> Result<(Process, Outcome), Failure> {
        let own = std::env::current_exe()?.to_string_lossy().into_owned();
        let via = proxy.address().to_string();
        let to = Scene::service().to_string();
        let certs = self.folder.join("client").to_string_lossy().into_owned();
        let mut words = vec![
            own.as_str(),
            "load",
            "--via",
            &via,
            "--to",
            &to,
            "--certs",
            &certs,
            "--mode",
            mode.word(),
        ];
        words.extend(options.iter().map(String::as_str));
        let (process, line) = Process::start_with_line(LOAD_CORE, &words)?;
        let outcome =
            serde_json::from_str(&line).map_err(|_| format!("the load ended: {line:?}"))?;
        Ok((process, outcome))
    }

    /// The backend's connections and tunnels so far.
    pub(crate) fn upstream_connections(&self) -> Result<u64, Failure> {
        let answer = get(SocketAddr::new(POD.into(), 8080), COUNT)?;
        let (_, count) = answer.split_once("\r\n\r\n").ok_or("no count")?;
        Ok(count.trim().parse()?)
    }

    /// The waypoint's time in connections' own tasks so far.
    pub(crate) fn connection_task(&self) -> Result<Duration, Failure> {
        let text = get(SocketAddr::new(WAYPOINT.into(), 15020), "/stats/prometheus")?;
        let name = "waypoint_connection_task_nanoseconds_total ";
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .ok_or("no such metric")?;
        Ok(Duration::from_nanos(value.trim().parse::<f64>()? as u64))
    }
}

fn start_envoy(folder: &Path, envoy: &Path) -> Result<Envoy, Failure> {
    let translation = StandaloneSource::new(vec![folder.join("manifests")], None).load()?;
    let settings = Settings {
        hbone: Proxy::Envoy.address(),
        admin: SocketAddr::new(ENVOY.into(), 15000),
        certs: folder.join("waypoint"),
    };
    let bootstrap = bootstrap(&translation.resources, &settings);
    let core = PROXY_CORE.to_string();
    let program = ["taskset", "-c", &core, &envoy.to_string_lossy()];
    Ok(Envoy::start(&program, &bootstrap, folder, settings.admin))
}

fn listening(address: SocketAddr, log: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            return Err(
                format!("{address}: {}", fs::read_to_string(log).unwrap_or_default()).into(),
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn get(address: SocketAddr, path: &str) -> Result<String, Failure> {
    use std::io::{Read, Write};
    let mut tcp = TcpStream::connect(address)?;
    tcp.write_all(
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut text = String::new();
    tcp.read_to_string(&mut text)?;
    Ok(text)
}

fn manifests(arrangement: Arrangement) -> String {
    let log = if arrangement.access_log {
        "/dev/stdout"
    } else {
        ""
    };
    let captured = if arrangement.hbone_upstream {
        "enabled"
    } else {
        "disabled"
    };
    let mut text = format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    accessLogFile: "{log}"
    defaultProviders: {{metrics: [prometheus]}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: default, labels: {{istio.io/use-waypoint: waypoint}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: waypoint, namespace: default}}
spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec: {{clusterIP: {VIP}, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web-1, namespace: default, labels: {{app: web}}, annotations: {{ambient.istio.io/redirection: {captured}}}}}
spec: {{serviceAccountName: web, containers: [{{name: a, image: a}}]}}
status: {{phase: Running, podIP: {POD}, conditions: [{{type: Ready, status: "True"}}]}}
"#
    );
    if arrangement.rules > 0 {
        text.push_str(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {name: p, namespace: default}\n\
             spec:\n  targetRefs: [{group: '', kind: Service, name: web}]\n  rules:\n",
        );
        // Half of them fit the client and differ by path, as rules of one application do.
        for n in 2..=arrangement.rules {
            let namespace = if n % 2 == 0 { "default" } else { "elsewhere" };
            text.push_str(&format!(
                "  - from: [{{source: {{namespaces: [{namespace}]}}}}]\n    to: [{{operation: {{methods: [GET], paths: [\"/p/{n}\"]}}}}]\n"
            ));
        }
        text.push_str("  - from: [{source: {namespaces: [default]}}]\n    to: [{operation: {methods: [GET], paths: [\"/p/1\"]}}]\n");
    }
    text
}
