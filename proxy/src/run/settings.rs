//! The settings of a waypoint, whatever they come from.

use std::net::SocketAddr;
use std::time::Duration;

use waypoint_config::store::OnRefused;

use crate::configuration::ConfigSource;
use crate::downstream::hbone_port::Limits;
use crate::identity::certificates::CertificateSource;
use crate::identity::crl::CrlFile;
use crate::identity::workload_ca::RenewalPoint;
use crate::lifecycle::drain::DrainTimes;
use crate::logs::access_file::AccessLogTarget;
use crate::logs::levels::LogLevels;
use crate::logs::losses::Losses;
use crate::process::allocator::Allocator;
use crate::process::vitals::LastResort;

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
    /// How long a connection may stay whose peer's root or trust domain is gone.
    pub trust_grace: Duration,
    /// When a certificate of the mesh's CA is renewed.
    pub renewal: RenewalPoint,
    /// How often certificates are looked at; manifests are looked at more often, and a change of one counts
    /// when it has been the same for so long.
    pub poll: Duration,
    pub drain: DrainTimes,
    pub limits: Limits,
    pub allocator: Allocator,
    /// Name servers in place of those of `/etc/resolv.conf`.
    pub dns_servers: Vec<SocketAddr>,
    pub access_log: AccessLogTarget,
    /// What becomes of a service whose new configuration is refused.
    pub on_refused: OnRefused,
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
            trust_grace: Duration::from_secs(3600),
            renewal: RenewalPoint::default(),
            poll: Duration::from_secs(1),
            drain: DrainTimes::open_for(Duration::from_secs(5)),
            limits: Limits::default(),
            allocator: Allocator::UNKNOWN,
            dns_servers: Vec::new(),
            access_log: AccessLogTarget::AsConfigured,
            on_refused: OnRefused::Keep,
            log_levels: LogLevels::fixed(),
            log_losses: Losses::default(),
            last_resort: LastResort::default(),
        }
    }
}
