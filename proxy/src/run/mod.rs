//! The running waypoint: what is started, in which order, and how it ends.
//!
//! Data runs on the runtime that `start` is called on; configuration and certificates have a thread of their own, and so
//! have the plain ports, so that none starves the others. A watchdog looks after all of them.

pub(crate) mod control;
pub(crate) mod host;
pub(crate) mod offline;
pub(crate) mod settings;
mod sockets;
pub(crate) mod threads;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
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
use waypoint_filters::security::jwt::provider::providers::Providers;
use waypoint_filters::telemetry::services::TelemetryServices;
use waypoint_hbone::client::ServerFloods;
use waypoint_hbone::io::socket::SocketOptions;
use waypoint_hbone::pool::{PoolOptions, TunnelPool};
use waypoint_hbone::server::ServerOptions;
use waypoint_hbone::tls::{Tls, TrustDomains};

use crate::admin::server::PlainPorts;
use crate::admin::{Admin, EnvoyNames, LARGE_AT_ONCE, Started, node, tell_build};
use crate::configuration::dns::Dns;
use crate::configuration::issuers::Issuers;
pub use crate::configuration::source::{ConfigError, ConfigSource};
use crate::configuration::{Configurator, Loaded};
use crate::downstream::data_path::DataPath;
use crate::downstream::floods::Floods;
pub use crate::downstream::hbone_port::Limits;
use crate::downstream::hbone_port::{HbonePort, HbonePortOptions};
use crate::identity::certificates::CertificateKeeper;
pub use crate::identity::certificates::{CertificateSource, CertificateSourceError};
use crate::identity::crl::CrlKeeper;
pub use crate::identity::crl::{CrlError, CrlFile};
use crate::identity::seconds_until;
pub use crate::identity::workload_ca::RenewalPoint;
use crate::identity::workload_ca::WorkloadCa;
use crate::lifecycle::drain::Drain;
pub use crate::lifecycle::drain::DrainTimes;
use crate::lifecycle::readiness::Readiness;
pub use crate::logs::access_file::AccessLogTarget;
use crate::logs::access_file::LogWriter;
use crate::logs::witness::Witness;
use crate::overload::Overload;
pub use crate::overload::limit::parse_bytes;
pub use crate::process::listen::ListenError;
use crate::process::open_files::{OpenFiles, Shares};
pub use crate::process::vitals::LastResort;
use crate::process::vitals::Vitals;
use crate::profiles::Profiles;
use crate::router::terminals::Terminals;
use crate::run::control::{Control, Live};
use crate::run::host::ProxyHost;
pub use crate::run::settings::RunOptions;
use crate::run::settings::fitting;
use crate::run::sockets::Sockets;
use crate::run::threads::Threads;
use crate::upstream::health::HealthChecks;

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
    telemetry: Arc<TelemetryServices>,
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
    let [hbone_addr, admin_addr, readiness_addr, stats_addr, ..] = addresses;
    let node = Arc::new(node(&options.source, &identity, hbone_addr));
    let Core {
        metrics,
        logs,
        tls,
        terminals,
        store,
        jwt_providers,
        telemetry,
        witness,
        workloads,
        shares,
    } = Core::new(&options, &vitals, &node)?;
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
    let suspects = terminals.reach.suspects.clone();
    let checks = HealthChecks::new(&terminals.reach, Handle::current());
    let callouts = terminals.callouts.clone();
    let open = terminals.reach.upstreams.connector.open.clone();
    let overload = terminals.overload.clone();
    let profiles = Profiles::new(options.allocator, overload.clone());
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
        snapshot.clone(),
        tls.clone(),
        configurator.untried_names(),
        drain.clone(),
        vitals.clone(),
    );
    let dns = Dns::new(&options.dns_servers, &metrics);
    let quit = Arc::new(Notify::new());
    let envoy = EnvoyNames {
        readiness: readiness.clone(),
        tls: tls.clone(),
        received: received.clone(),
        link: live.configuration.is_some().then(|| configurator.link()),
        open,
        overload,
        hbone_addr,
        concurrency: Handle::current().metrics().num_workers(),
        started,
    };
    metrics.register(envoy.clone());
    let admin = Admin {
        envoy,
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        tls,
        received,
        snapshot,
        problems: configurator.problems(),
        jwt_providers: jwt_providers.clone(),
        telemetry: telemetry.clone(),
        workloads,
        witness,
        source: options.source.to_string(),
        node,
        hbone_addr,
        admin_addr,
        concurrency: Handle::current().metrics().num_workers(),
        log_levels: options.log_levels,
        started,
        profiles,
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
        jwt_providers,
        telemetry: telemetry.clone(),
        keeper,
        crl,
        dns,
        issuers: Issuers { callouts },
        checks,
        suspects,
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
        telemetry,
        quit,
        vitals,
        threads,
    })
}

/// For the last lines of the access log to be written, and for the last spans and entries to be sent.
const FLUSHING: Duration = Duration::from_millis(500);

/// What data path and configuration share.
struct Core {
    metrics: Arc<MetricRegistry>,
    logs: Arc<LogWriter>,
    tls: Tls,
    terminals: Terminals,
    store: Store,
    jwt_providers: Arc<Providers>,
    telemetry: Arc<TelemetryServices>,
    witness: Arc<Witness>,
    workloads: WorkloadIndex,
    shares: Shares,
}

impl Core {
    fn new(options: &RunOptions, vitals: &Vitals, node: &Node) -> io::Result<Core> {
        let metrics = Arc::new(MetricRegistry::new(options.metrics));
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
        seconds_until::register(
            &metrics,
            "istio_agent_cert_expiry_seconds",
            "Seconds until the certificate expires; negative when it has.",
            &[("resource_name", "default")],
            move || Some(own.certificate()?.not_after()),
        );
        let workloads = WorkloadIndex::default();
        let index = workloads.clone();
        let peer = Arc::new(move |address| index.lookup(address));
        let shares = Shares::now();
        let scarce = metrics.counter(
            "waypoint_descriptors_scarce_total",
            "Times that idle connections to upstreams were closed because descriptors were scarce.",
        );
        let files = Arc::new(OpenFiles::new(shares, scarce));
        let tunnels = pool_options(options.limits, &files, &metrics);
        let tunnels = TunnelPool::new(tls.clone(), tunnels);
        let overload = Overload::start(
            options.limits.memory,
            options.allocator,
            &metrics,
            vitals.clone(),
        )?;
        let terminals = Terminals::new(
            tls.clone(),
            tunnels,
            files,
            peer,
            overload,
            &metrics,
            &options.outside(),
        );
        let jwt_providers = Arc::new(Providers::new(&metrics));
        let telemetry = TelemetryServices::new(&node.id, &node.cluster, &metrics);
        let telemetry = Arc::new(telemetry);
        let witness = Arc::<Witness>::default();
        let host: Arc<dyn Host> = Arc::new(ProxyHost {
            workloads: workloads.clone(),
            logs: logs.clone(),
            metrics: metrics.clone(),
            jwt_providers: jwt_providers.clone(),
            telemetry: telemetry.clone(),
            witness: witness.clone(),
            denial_header: options.denial_header.clone(),
            terminals: terminals.clone(),
        });
        let store = Store::new(host, workloads.clone(), options.on_refused);
        Ok(Core {
            metrics,
            logs,
            tls,
            terminals,
            store,
            jwt_providers,
            telemetry,
            witness,
            workloads,
            shares,
        })
    }
}

fn pool_options(limits: Limits, files: &Arc<OpenFiles>, metrics: &MetricRegistry) -> PoolOptions {
    let floods = Floods::new(metrics);
    PoolOptions {
        floods: ServerFloods {
            budget: limits.frames,
            told: Arc::new(move |hop, flood| floods.count("upstream", hop, flood)),
        },
        socket: SocketOptions {
            admission: files.admission(),
            ..SocketOptions::default()
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
        self.telemetry.flush(FLUSHING).await;
        let (threads, logs) = (self.threads, self.logs);
        let stopping = move || {
            threads.stop();
            logs.flush(FLUSHING);
        };
        let _ = tokio::task::spawn_blocking(stopping).await;
    }
}
