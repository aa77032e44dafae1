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
use crate::manifests;
use crate::process::Process;

/// The proxies' core, and everybody else's.
pub(crate) const PROXY_CORE: usize = 1;
pub(crate) const LOAD_CORE: usize = 0;

pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(127, 30, 0, 1);
/// The last numbers of pods, where there are several.
const PODS: std::ops::RangeInclusive<u8> = 101..=110;
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 30, 1);
/// Who is asked whether requests may pass.
pub(crate) const ASKED: Ipv4Addr = Ipv4Addr::new(127, 30, 0, 2);
pub(crate) const ASKED_PORT: u16 = 9000;
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
    pub(crate) more: More,
}

/// What else a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum More {
    Nothing,
    /// So many rules of routes; the last one is the load's.
    Routes(usize),
    /// A copy of each request goes to another service.
    Mirror,
    /// A service is asked over gRPC whether it may pass (CUSTOM).
    Asked,
    /// It brings a token along, of so many in turn.
    Token {
        algorithm: &'static str,
        number: usize,
    },
    /// A ring chooses one of [`PODS`] by the user.
    Hashed,
    /// Those of [`PODS`] that fail would be left out.
    Outliers,
    /// TLS to the pod, on connections that are kept or for one request each.
    Tls {
        kept: bool,
    },
    Grpc,
    NoMetrics,
    /// Ten labels of Istio's metrics are expressions.
    Labels,
    /// Istio's metrics have the user as a label.
    UserLabel,
    JsonLog,
    OtlpLog,
    /// So many requests of a hundred are traced.
    Traces {
        percent: u32,
    },
}

impl More {
    /// Users that requests name.
    pub(crate) fn users(self) -> usize {
        match self {
            More::Hashed | More::Labels => 100,
            _ => 0,
        }
    }

    /// The pod's port.
    pub(crate) fn port(self) -> u16 {
        match self {
            More::Tls { .. } => 8443,
            More::Grpc => 8081,
            _ => 8080,
        }
    }

    pub(crate) fn pods(self) -> Vec<Ipv4Addr> {
        match self {
            More::Hashed | More::Outliers => PODS.map(|n| Ipv4Addr::new(127, 30, 0, n)).collect(),
            _ => vec![POD],
        }
    }
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
        let (manifests, tokens) = manifests::of(arrangement, folder);
        fs::write(folder.join("manifests/all.yaml"), manifests)?;
        fs::write(folder.join("tokens"), tokens.join("\n"))?;
        let ca = DevCa::open_or_create(&folder.join("ca"))?;
        for account in ["waypoint", "web", "client"] {
            let identity = Identity::istio("cluster.local", "default", account)?;
            ca.mint(&identity, TTL)?.write(&folder.join(account))?;
        }
        let own = std::env::current_exe()?;
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut http = vec![SocketAddr::new(POD.into(), 8080).to_string()];
        let pods = arrangement.more.pods().into_iter().filter(|ip| *ip != POD);
        http.extend(pods.map(|ip| SocketAddr::new(ip.into(), 8080).to_string()));
        let at_pod = |port: u16| SocketAddr::new(POD.into(), port).to_string();
        let asked = SocketAddr::new(ASKED.into(), ASKED_PORT).to_string();
        let certs = path(&folder.join("web"));
        let backend = Process::start(
            LOAD_CORE,
            &[
                &path(&own),
                "backend",
                "--http",
                &http.join(","),
                "--tls",
                &at_pod(8443),
                "--grpc",
                &at_pod(8081),
                "--hbone",
                &at_pod(15008),
                "--asked",
                &asked,
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
        let tokens = self.folder.join("tokens").to_string_lossy().into_owned();
        let mut words = vec![
            own.as_str(),
            "load",
            "--via",
            &via,
            "--to",
            &to,
            "--certs",
            &certs,
            "--tokens",
            &tokens,
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

    /// Where a proxy's metrics are scraped.
    pub(crate) fn metrics(proxy: Proxy) -> SocketAddr {
        match proxy {
            Proxy::Waypoint => SocketAddr::new(WAYPOINT.into(), 15020),
            Proxy::Envoy => SocketAddr::new(ENVOY.into(), 15000),
        }
    }

    /// The waypoint's time in connections' own tasks so far.
    pub(crate) fn connection_task(&self) -> Result<Duration, Failure> {
        let text = get(Scene::metrics(Proxy::Waypoint), "/stats/prometheus")?;
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

/// What is answered to a request, head and all.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String, Failure> {
    use std::io::{Read, Write};
    let mut tcp = TcpStream::connect(address)?;
    tcp.write_all(
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut text = String::new();
    tcp.read_to_string(&mut text)?;
    Ok(text)
}
