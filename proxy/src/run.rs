//! The running waypoint: what is started, in which order, and how it ends.
//!
//! Data runs on the runtime that `start` is called on; configuration, certificates and the admin ports
//! have a thread of their own, so that neither starves the other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use waypoint_config::store::Store;
use waypoint_config::workloads::WorkloadIndex;
use waypoint_config::xds::ads::AdsClient;
use waypoint_filters::host::Host;
use waypoint_filters::metrics::MetricRegistry;
use waypoint_hbone::pool::{PoolOptions, TunnelPool};
use waypoint_hbone::server::ServerOptions;
use waypoint_hbone::tls::{Tls, TrustDomains};

use crate::admin::{Admin, Port};
use crate::certificates::CertificateKeeper;
pub use crate::certificates::{CertificateSource, CertificateSourceError};
pub use crate::configuration::{ConfigError, ConfigSource};
use crate::configuration::{Configurator, Loaded};
use crate::dataplane::{DataPlane, DataPlaneOptions, Terminals};
use crate::drain::{self, Drain};
use crate::host::ProxyHost;
pub use crate::listen::ListenError;
use crate::listen::listen;
pub use crate::log_writer::AccessLogTarget;
use crate::log_writer::LogWriter;
use crate::readiness::Readiness;
use crate::workload_ca::WorkloadCa;

/// How often unused metric series are looked for.
const EXPIRE: Duration = Duration::from_secs(60);

/// Settings of a waypoint. Port 0 means any free port.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub source: ConfigSource,
    pub hbone_addr: SocketAddr,
    pub admin_addr: SocketAddr,
    pub readiness_addr: SocketAddr,
    pub stats_addr: SocketAddr,
    /// A second port for metrics, where Istio's pods have Envoy's.
    pub envoy_stats_addr: Option<SocketAddr>,
    pub certificates: CertificateSource,
    /// How often manifests and certificates are looked at; a change counts when two looks agree.
    pub poll: Duration,
    /// How long what runs may take to end.
    pub drain: Duration,
    pub access_log: AccessLogTarget,
}

impl RunOptions {
    /// The defaults of the command line.
    pub fn new(source: ConfigSource, certificates: CertificateSource) -> RunOptions {
        RunOptions {
            source,
            hbone_addr: ([0u16; 8], 15008).into(),
            admin_addr: ([127, 0, 0, 1], 15000).into(),
            readiness_addr: ([0, 0, 0, 0], 15021).into(),
            stats_addr: ([0, 0, 0, 0], 15020).into(),
            envoy_stats_addr: None,
            certificates,
            poll: Duration::from_secs(1),
            drain: Duration::from_secs(5),
            access_log: AccessLogTarget::AsConfigured,
        }
    }
}

/// Why the waypoint doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Certificates(#[from] CertificateSourceError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A waypoint at work.
pub struct Running {
    pub hbone_addr: SocketAddr,
    pub admin_addr: SocketAddr,
    pub readiness_addr: SocketAddr,
    pub stats_addr: SocketAddr,
    drain: Drain,
    drain_limit: Duration,
    readiness: Readiness,
    logs: Arc<LogWriter>,
    quit: Arc<Notify>,
    stop: oneshot::Sender<()>,
    control: thread::JoinHandle<()>,
}

/// Starts a waypoint. When this returns it takes traffic; with an istiod, as soon as configuration and
/// certificate have come, which readiness tells.
///
/// # Errors
/// Configuration or certificate can't be used, or a port is taken. Nothing is left running.
pub async fn start(options: RunOptions) -> Result<Running, StartError> {
    let loaded = Loaded::read(&options.source)?;
    let identity = loaded.identity().map_err(CertificateSourceError::from)?;
    let hbone = listen(options.hbone_addr, "HBONE")?;
    let admin = listen(options.admin_addr, "admin")?;
    let readiness_port = listen(options.readiness_addr, "readiness")?;
    let stats = listen(options.stats_addr, "metrics")?;
    let envoy_stats = options
        .envoy_stats_addr
        .map(|a| listen(a, "metrics, as Envoy"))
        .transpose()?;
    let addresses = [
        hbone.local_addr()?,
        admin.local_addr()?,
        readiness_port.local_addr()?,
        stats.local_addr()?,
    ];

    let metrics = Arc::new(MetricRegistry::default());
    let dropped = metrics.counter(
        "waypoint_access_log_dropped_total",
        "Access log lines that were not written: buffers full, or no file.",
    );
    let logs = Arc::new(LogWriter::start(options.access_log.clone(), dropped)?);
    let tls = Tls::new(None, TrustDomains::default());
    let tunnels = TunnelPool::new(tls.clone(), PoolOptions::default());
    let workloads = WorkloadIndex::default();
    let index = workloads.clone();
    let terminals = Terminals::new(
        tls.clone(),
        tunnels,
        Arc::new(move |address| index.lookup(address)),
    );
    let host: Arc<dyn Host> = Arc::new(ProxyHost {
        workloads: workloads.clone(),
        logs: logs.clone(),
        metrics: metrics.clone(),
        terminals: terminals.clone(),
    });
    let store = Store::new(host, workloads);
    let snapshot = store.handle();
    let live = match &options.source {
        ConfigSource::Istiod { plane, node } => {
            Some(AdsClient::new(plane.clone(), (**node).clone()))
        }
        _ => None,
    };
    let ca = match &options.certificates {
        CertificateSource::Ca {
            plane,
            identity,
            ttl,
        } => Some(WorkloadCa {
            plane: plane.clone(),
            identity: identity.clone(),
            ttl: *ttl,
            tls: tls.clone(),
            metrics: metrics.clone(),
        }),
        _ => None,
    };
    let keeper = CertificateKeeper::start(options.certificates, identity, tls.clone())?;
    let configurator = Configurator::new(store, loaded, tls.clone(), metrics.clone());
    if live.is_none() {
        configurator.complete()?;
    }

    let plane = DataPlane::new(DataPlaneOptions {
        snapshot: snapshot.clone(),
        tls: tls.clone(),
        terminals,
        own_ports: addresses.iter().map(SocketAddr::port).collect(),
        server: ServerOptions::default(),
        metrics: metrics.clone(),
    });
    let (drain, watch) = drain::channel();
    let hbone = TcpListener::from_std(hbone)?;
    tokio::spawn(plane.serve(hbone, watch));

    let readiness = Readiness::new(snapshot, tls.clone());
    let quit = Arc::new(Notify::new());
    let control = Control {
        admin: Admin {
            readiness: readiness.clone(),
            metrics,
            tls,
            problems: configurator.problems(),
            started: Instant::now(),
            quit: quit.clone(),
        },
        ports: [
            (admin, Port::Admin),
            (readiness_port, Port::Readiness),
            (stats, Port::Stats),
        ]
        .into_iter()
        .chain(envoy_stats.map(|listener| (listener, Port::Stats)))
        .collect(),
        live,
        ca,
        configurator,
        keeper,
        poll: options.poll,
    };
    let (stop, stopped) = oneshot::channel();
    let control = thread::Builder::new()
        .name("control".into())
        .spawn(move || control.run(stopped))?;
    let [hbone_addr, admin_addr, readiness_addr, stats_addr] = addresses;
    Ok(Running {
        hbone_addr,
        admin_addr,
        readiness_addr,
        stats_addr,
        drain,
        drain_limit: options.drain,
        readiness,
        logs,
        quit,
        stop,
        control,
    })
}

impl Running {
    /// Returns when somebody in the pod asks for the end (`POST /quitquitquit`).
    pub async fn asked_to_quit(&self) {
        self.quit.notified().await;
    }

    /// Takes no more connections, lets what runs end within the drain time, and stops. Says whether
    /// all ended in time.
    pub async fn shutdown(self) -> bool {
        self.readiness.drain();
        let finished = self.drain.finish(self.drain_limit).await;
        let _ = self.stop.send(());
        // The control thread ends at once, unless it is reading manifests.
        let _ = tokio::task::spawn_blocking(move || self.control.join()).await;
        self.logs.flush();
        finished
    }
}

/// What the control thread does.
struct Control {
    admin: Admin,
    ports: Vec<(std::net::TcpListener, Port)>,
    configurator: Configurator,
    keeper: CertificateKeeper,
    poll: Duration,
    live: Option<AdsClient>,
    ca: Option<WorkloadCa>,
}

impl Control {
    fn run(self, stopped: oneshot::Receiver<()>) {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "no runtime for the control thread");
                return;
            }
        };
        runtime.block_on(async {
            tokio::select! {
                () = self.work() => {}
                _ = stopped => {}
            }
        });
    }

    async fn work(mut self) {
        for (listener, port) in std::mem::take(&mut self.ports) {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    tokio::spawn(self.admin.clone().serve(listener, port));
                }
                Err(error) => tracing::error!(?port, %error, "port can't be served"),
            }
        }
        if let Some(ca) = self.ca.take() {
            tokio::spawn(ca.run());
        }
        let metrics = self.admin.metrics.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EXPIRE).await;
                metrics.expire(Instant::now());
            }
        });
        match self.live.take() {
            Some(client) => client.run(&mut self.configurator, fastrand::f64).await,
            None => loop {
                tokio::time::sleep(self.poll).await;
                self.configurator.poll();
                self.keeper.poll(SystemTime::now());
            },
        }
    }
}
