//! The settings of a waypoint, whatever they come from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use waypoint_config::store::OnRefused;
use waypoint_filters::metrics::Limits as MetricLimits;

use crate::configuration::source::ConfigSource;
use crate::downstream::hbone_port::Limits;
use crate::identity::certificates::CertificateSource;
use crate::identity::crl::CrlFile;
use crate::identity::workload_ca::RenewalPoint;
use crate::lifecycle::drain::DrainTimes;
use crate::logs::access_file::AccessLogTarget;
use crate::logs::levels::LogLevels;
use crate::logs::losses::Losses;
use crate::process::allocator::Allocator;
use crate::process::open_files::Shares;
use crate::process::vitals::LastResort;
use crate::upstream::outside::Outside;

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
    /// The file of revoked certificates.
    pub crl: Option<CrlFile>,
    /// The file of roots that servers outside of the mesh are checked against where configuration says the system's;
    /// `None`: where systems usually have it.
    pub system_roots: Option<PathBuf>,
    /// How long a connection may stay whose peer's root or trust domain is gone.
    pub trust_grace: Duration,
    /// When a certificate of the mesh's CA is renewed.
    pub renewal: RenewalPoint,
    /// How often certificates are looked at; manifests are looked at more often, and a change of one counts
    /// when it has been the same for so long.
    pub poll: Duration,
    pub drain: DrainTimes,
    pub limits: Limits,
    /// How many series metrics may have, and how long idle ones stay.
    pub metrics: MetricLimits,
    pub allocator: Allocator,
    /// Name servers in place of those of `/etc/resolv.conf`.
    pub dns_servers: Vec<SocketAddr>,
    /// Addresses that names which nobody configured may lead to though they are this machine's or its link's.
    pub near_allowed: Vec<IpNet>,
    pub access_log: AccessLogTarget,
    /// What becomes of a service whose new configuration is refused.
    pub on_refused: OnRefused,
    /// The header in which clients are told which policy denied their request.
    pub denial_header: Option<HeaderName>,
    /// Where the log's levels can be changed.
    pub log_levels: LogLevels,
    /// What of the process's own log was lost.
    pub log_losses: Losses,
    /// What is done about threads that are stuck for good.
    pub last_resort: LastResort,
}

impl RunOptions {
    /// The defaults of the command line.
    pub fn new(source: ConfigSource, certificates: CertificateSource) -> RunOptions {
        RunOptions {
            source,
            hbone_addr: ([0u16; 8], waypoint_hbone::PORT).into(),
            admin_addr: ([127, 0, 0, 1], 15000).into(),
            readiness_addr: ([0, 0, 0, 0], 15021).into(),
            stats_addr: ([0, 0, 0, 0], 15020).into(),
            envoy_stats_addr: None,
            certificates,
            crl: None,
            system_roots: None,
            trust_grace: Duration::from_secs(3600),
            renewal: RenewalPoint::default(),
            poll: Duration::from_secs(1),
            drain: DrainTimes::open_for(Duration::from_secs(5)),
            limits: Limits::default(),
            metrics: MetricLimits::DEFAULT,
            allocator: Allocator::UNKNOWN,
            dns_servers: Vec::new(),
            near_allowed: Vec::new(),
            access_log: AccessLogTarget::AsConfigured,
            on_refused: OnRefused::Keep,
            denial_header: None,
            log_levels: LogLevels::fixed(),
            log_losses: Losses::default(),
            last_resort: LastResort::default(),
        }
    }
    pub(crate) fn outside(&self) -> Outside {
        Outside {
            system_roots: self.system_roots.clone(),
            dns_servers: self.dns_servers.clone(),
            near_allowed: self.near_allowed.clone(),
        }
    }
}

/// The limits, as far as there are descriptors for them.
pub(super) fn fitting(limits: Limits, shares: Shares) -> Limits {
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
