//! The running waypoint: what is started, in which order, and how it ends.
//!
//! Data runs on the runtime that `start` is called on; configuration and certificates have a thread of their own, and so
//! have the plain ports, so that none starves the others. A watchdog looks after all of them.

pub(crate) mod control;
pub(crate) mod host;
pub(crate) mod settings;
pub(crate) mod threads;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use waypoint_config::sources::xds::ads::AdsClient;
use waypoint_config::standalone::Pace;
pub use waypoint_config::store::OnRefused;
use waypoint_config::store::Store;
use waypoint_config::store::workloads::WorkloadIndex;
use waypoint_filters::host::Host;
use waypoint_filters::metrics::MetricRegistry;
use waypoint_hbone::client::ServerFloods;
use waypoint_hbone::pool::{PoolOptions, TunnelPool};
use waypoint_hbone::server::ServerOptions;
use waypoint_hbone::tls::{Tls, TrustDomains};

use crate::admin::server::PlainPorts;
use crate::admin::{Admin, LARGE_AT_ONCE, Port, Started, node, tell_build};
use crate::configuration::dns::Dns;
pub use crate::configuration::{ConfigError, ConfigSource};
use crate::configuration::{Configurator, Loaded};
use crate::downstream::data_path::DataPath;
use crate::downstream::floods::Floods;
pub use crate::downstream::hbone_port::Limits;
use crate::downstream::hbone_port::{HbonePort, HbonePortOptions};
use crate::identity::certificates::CertificateKeeper;
pub use crate::identity::certificates::{CertificateSource, CertificateSourceError};
use crate::identity::crl::CrlKeeper;
pub use crate::identity::crl::{CrlError, CrlFile};
use crate::identity::seconds_until::SecondsUntil;
pub use crate::identity::workload_ca::RenewalPoint;
use crate::identity::workload_ca::WorkloadCa;
use crate::lifecycle::drain::Drain;
pub use crate::lifecycle::drain::DrainTimes;
use crate::lifecycle::readiness::Readiness;
pub use crate::logs::access_file::AccessLogTarget;
use crate::logs::access_file::LogWriter;
use crate::overload::Overload;
pub use crate::overload::limit::parse_bytes;
pub use crate::process::listen::ListenError;
use crate::process::listen::listen;
use crate::process::open_files::{OpenFiles, Shares};
pub use crate::process::vitals::LastResort;
use crate::process::vitals::Vitals;
use crate::router::terminals::Terminals;
use crate::run::control::{Control, Live};
use crate::run::host::ProxyHost;
pub use crate::run::settings::RunOptions;
use crate::run::threads::Threads;

/// Why the waypoint doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Certificates(#[from] CertificateSourceError),
    #[error(transparent)]
    Crl(#[from] CrlError),
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
    drain_times: DrainTimes,
    readiness: Readiness,
    logs: Arc<LogWriter>,
    quit: Arc<Notify>,
    vitals: Vitals,
    threads: Threads,
}

/// Starts a waypoint. When this returns it takes traffic; with an istiod, as soon as configuration and
/// certificate have come, which readiness tells.
///
/// # Errors
/// Configuration or certificate can't be used, or a port is taken. Nothing is left running.
pub async fn start(options: RunOptions) -> Result<Running, StartError> {
    let started = Started::now();
    let loaded = Loaded::read(&options.source, Pace::of(options.poll))?;
    let identity = loaded.identity().map_err(CertificateSourceError::from)?;
    let sockets = Sockets::bind(&options)?;
    let addresses = sockets.addresses()?;
    let vitals = Vitals::new();
    let Core {
        metrics,
        logs,
        tls,
        terminals,
        store,
        shares,
    } = Core::new(&options, &vitals)?;
    let [hbone_addr, admin_addr, readiness_addr, stats_addr, ..] = addresses;
    let node = Arc::new(node(&options.source, &identity, hbone_addr));
    tell_build(&node, &metrics);
    let (snapshot, received) = (store.handle(), store.received());
    let live = live(&options, &tls, &metrics);
    let crl = match options.crl.clone() {
        Some(file) => Some(CrlKeeper::start(file, tls.clone(), &metrics)?),
        None => None,
    };
    let keeper = CertificateKeeper::start(options.certificates, identity, tls.clone())?;
    let configurator = Configurator::new(store, loaded, tls.clone(), metrics.clone());
    if live.configuration.is_none() {
        configurator.complete()?;
    }

    let own_ports = addresses.iter().map(SocketAddr::port).collect();
    let port = HbonePort::new(HbonePortOptions {
        path: DataPath::new(snapshot.clone(), terminals, own_ports, &metrics),
        tls: tls.clone(),
        server: ServerOptions::default(),
        limits: fitting(options.limits, shares),
        metrics: metrics.clone(),
    });
    let drain = Drain::new();
    let serving = port.serve(TcpListener::from_std(sockets.hbone)?, drain.clone());
    let guarding = vitals.clone();
    tokio::spawn(async move { guarding.guard("the HBONE port", serving).await });

    let readiness = Readiness::new(
        snapshot,
        tls.clone(),
        configurator.untried_names(),
        drain.clone(),
        vitals.clone(),
    );
    let dns = Dns::new(&options.dns_servers, &metrics);
    let quit = Arc::new(Notify::new());
    let admin = Admin {
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        tls,
        received,
        problems: configurator.problems(),
        node,
        hbone_addr,
        admin_addr,
        concurrency: Handle::current().metrics().num_workers(),
        log_levels: options.log_levels,
        started,
        quit: quit.clone(),
        dumps: Arc::new(Semaphore::new(1)),
        large: Arc::new(Semaphore::new(LARGE_AT_ONCE)),
    };
    let ports = PlainPorts {
        admin,
        listeners: sockets.ports,
        bounds: shares.plain(),
        vitals: vitals.clone(),
    };
    let control = Control {
        vitals: vitals.clone(),
        readiness: readiness.clone(),
        metrics,
        live,
        configurator,
        keeper,
        crl,
        dns,
        poll: options.poll,
    };
    let threads = Threads::start(ports, control, &vitals, options.last_resort)?;
    Ok(Running {
        hbone_addr,
        admin_addr,
        readiness_addr,
        stats_addr,
        drain,
        drain_times: options.drain,
        readiness,
        logs,
        quit,
        vitals,
        threads,
    })
}

/// For the last lines of the access log to be written.
const FLUSHING: Duration = Duration::from_millis(500);

/// The limits, as far as there are descriptors for them.
fn fitting(limits: Limits, shares: Shares) -> Limits {
    let (connections, handshakes) = shares.connections();
    let fitting = Limits {
        connections: limits.connections.min(connections),
        handshakes: limits.handshakes.min(handshakes),
        ..limits
    };
    if fitting != limits {
        tracing::warn!(
            connections = fitting.connections,
            handshakes = fitting.handshakes,
            "the limit of open files allows no more"
        );
    }
    fitting
}

/// The ports, bound before anything is started.
struct Sockets {
    hbone: std::net::TcpListener,
    ports: Vec<(std::net::TcpListener, Port)>,
}

impl Sockets {
    fn bind(options: &RunOptions) -> Result<Sockets, ListenError> {
        let hbone = listen(options.hbone_addr, "HBONE")?;
        let mut ports = vec![
            (listen(options.admin_addr, "admin")?, Port::Admin),
            (
                listen(options.readiness_addr, "readiness")?,
                Port::Readiness,
            ),
            (listen(options.stats_addr, "metrics")?, Port::Stats),
        ];
        if let Some(address) = options.envoy_stats_addr {
            ports.push((
                listen(address, "metrics, where Envoy has them")?,
                Port::EnvoyStats,
            ));
        }
        Ok(Sockets { hbone, ports })
    }

    /// HBONE, admin, readiness, metrics, and metrics again where Envoy has them.
    fn addresses(&self) -> io::Result<[SocketAddr; 5]> {
        let mut addresses = [self.hbone.local_addr()?; 5];
        for (place, (listener, _)) in addresses.iter_mut().skip(1).zip(&self.ports) {
            *place = listener.local_addr()?;
        }
        Ok(addresses)
    }
}

/// What data path and configuration share.
struct Core {
    metrics: Arc<MetricRegistry>,
    logs: Arc<LogWriter>,
    tls: Tls,
    terminals: Terminals,
    store: Store,
    shares: Shares,
}

impl Core {
    fn new(options: &RunOptions, vitals: &Vitals) -> io::Result<Core> {
        let metrics = Arc::new(MetricRegistry::default());
        let dropped = metrics.counter(
            "waypoint_access_log_dropped_total",
            "Access log lines that were not written: buffers full, or no file.",
        );
        let logs = Arc::new(LogWriter::new(
            options.access_log.clone(),
            Arc::new(move |lines| dropped.add(lines)),
            |path, error| tracing::warn!(path, %error, "access log can't be written; lines are dropped"),
        ));
        options.log_losses.register(&metrics);
        let tls = Tls::new(None, TrustDomains::default());
        tls.set_trust_grace(options.trust_grace);
        let own = tls.clone();
        SecondsUntil::register(
            &metrics,
            "istio_agent_cert_expiry_seconds",
            "Seconds until the certificate expires; negative when it has.",
            &[("resource_name", "default")],
            move || Some(own.certificate()?.not_after()),
        );
        let tunnels = TunnelPool::new(tls.clone(), pool_options(options.limits, &metrics));
        let workloads = WorkloadIndex::default();
        let index = workloads.clone();
        let peer = Arc::new(move |address| index.lookup(address));
        let shares = Shares::now();
        let scarce = metrics.counter(
            "waypoint_descriptors_scarce_total",
            "Times that idle connections to upstreams were closed because descriptors were scarce.",
        );
        let files = Arc::new(OpenFiles::new(shares, scarce));
        let overload = Overload::start(
            options.limits.memory,
            options.allocator,
            &metrics,
            vitals.clone(),
        )?;
        let terminals = Terminals::new(tls.clone(), tunnels, files, peer, overload, &metrics);
        let host: Arc<dyn Host> = Arc::new(ProxyHost {
            workloads: workloads.clone(),
            logs: logs.clone(),
            metrics: metrics.clone(),
            terminals: terminals.clone(),
        });
        let store = Store::new(host, workloads, options.on_refused);
        Ok(Core {
            metrics,
            logs,
            tls,
            terminals,
            store,
            shares,
        })
    }
}

fn pool_options(limits: Limits, metrics: &MetricRegistry) -> PoolOptions {
    let floods = Floods::new(metrics);
    PoolOptions {
        floods: ServerFloods {
            budget: limits.frames,
            told: Arc::new(move |hop, flood| floods.count("upstream", hop, flood)),
        },
        ..PoolOptions::default()
    }
}

/// What of the settings is to come from an istiod.
fn live(options: &RunOptions, tls: &Tls, metrics: &Arc<MetricRegistry>) -> Live {
    let configuration = match &options.source {
        ConfigSource::Istiod { plane, node } => {
            Some(AdsClient::new(plane.clone(), (**node).clone()))
        }
        _ => None,
    };
    let certificates = match &options.certificates {
        CertificateSource::Ca {
            plane,
            identity,
            ttl,
        } => Some(WorkloadCa {
            plane: plane.clone(),
            identity: identity.clone(),
            ttl: *ttl,
            renewal: options.renewal,
            tls: tls.clone(),
            metrics: metrics.clone(),
        }),
        _ => None,
    };
    Live {
        configuration,
        certificates,
    }
}
impl Running {
    /// Returns when somebody in the pod asks for the end (`POST /quitquitquit`).
    pub async fn asked_to_quit(&self) {
        self.quit.notified().await;
    }

    /// Begins to drain, without ending: not ready from now on, and clients are told to go elsewhere.
    pub fn drain(&self) {
        self.readiness.drain();
    }

    /// Returns when something has died that nothing goes on without, with what: the process is to end.
    pub async fn died(&self) -> String {
        self.vitals.died().await
    }

    /// Drains to the end and stops. Says whether all that ran has ended in time.
    pub async fn shutdown(self) -> bool {
        let times = self.drain_times;
        self.shutdown_within(&times).await
    }

    /// As [`Running::shutdown`], for somebody who waits: no step stays open.
    pub async fn shutdown_soon(self) -> bool {
        let times = self.drain_times.hurried();
        self.shutdown_within(&times).await
    }

    async fn shutdown_within(self, times: &DrainTimes) -> bool {
        let finished = self.drain.finish(times).await;
        self.stop().await;
        finished
    }

    /// Stops at once; what runs is cut off.
    pub async fn stop(self) {
        let (threads, logs) = (self.threads, self.logs);
        let stopping = move || {
            threads.stop();
            logs.flush(FLUSHING);
        };
        let _ = tokio::task::spawn_blocking(stopping).await;
    }
}
