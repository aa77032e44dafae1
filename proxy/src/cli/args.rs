//! The flags of all commands. They are a contract with scripts outside.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use waypoint_filters::metrics::Limits as MetricLimits;
use waypoint_hbone::identity::Identity;

use crate::cli::analyze::AnalyzeArgs;
use crate::cli::config::ConfigArgs;
use crate::cli::explain::ExplainArgs;
use crate::cli::generate::{EnrollArgs, GenerateArgs};
use crate::cli::log::LogArgs;
use crate::cli::services::DirectoryArgs;
use crate::cli::status::StatusArgs;
use crate::cli::test::TestArgs;
use crate::pod::commands::version::VersionArgs;
use crate::pod::commands::wait::WaitArgs;
use crate::run::{Limits, parse_bytes};

/// The L7 waypoint proxy of an Istio ambient mesh.
#[derive(Debug, Parser)]
#[command(name = "waypoint", version)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    /// What is logged on stderr: a level, or target=level,… [default: info; demo: warn]
    #[arg(long, global = true, env = "WAYPOINT_LOG")]
    pub(super) log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a waypoint from Kubernetes manifests.
    Run(Box<RunArgs>),
    /// Mint a workload certificate with a local development CA.
    Cert(CertArgs),
    /// Play a small mesh with a waypoint in it, and send requests through.
    Demo(DemoArgs),
    /// Say what would become of a request, and why: policies, route, upstream. Nothing is sent.
    Explain(Box<ExplainArgs>),
    /// Ask many requests as explain does, and compare with what is expected of them.
    Test(TestArgs),
    /// List what of a folder is invalid, not honoured, or without effect on a waypoint.
    Analyze(AnalyzeArgs),
    /// List services with the waypoint that each uses, as `istioctl ztunnel-config service` does.
    Services(DirectoryArgs),
    /// List workloads with the waypoint that each uses, as `istioctl ztunnel-config workload` does.
    Workloads(DirectoryArgs),
    /// Say how a waypoint is.
    Status(StatusArgs),
    /// Show what is in force: clusters, listeners, routes, endpoints, certificates.
    Config(ConfigArgs),
    /// Show or change the levels that a running waypoint logs at.
    Log(LogArgs),
    /// Write the Gateway of a waypoint, as `istioctl waypoint generate` does.
    Generate(GenerateArgs),
    /// Write a Gateway and the label with which a namespace uses it, as `istioctl waypoint apply --enroll-namespace` does.
    Enroll(EnrollArgs),
    /// Run as a waypoint pod's container, with the arguments and environment of istiod's template.
    #[command(disable_help_flag = true)]
    Proxy(PodArgs),
    /// Ask a port of the pod, as `pilot-agent request` does.
    Request(PodArgs),
    /// Wait until the waypoint is ready, as `pilot-agent wait` does.
    Wait(WaitArgs),
    /// Say which Istio this stands for, as `pilot-agent version` does.
    Version(VersionArgs),
    /// Carry TCP connections through a waypoint, as the ztunnel of a client does.
    Connect(ConnectArgs),
}

impl Command {
    /// Whether it only tells something: what it says is on stdout, and the log would say it again.
    pub(super) fn only_asks(&self) -> bool {
        matches!(
            self,
            Command::Explain(_)
                | Command::Test(_)
                | Command::Services(_)
                | Command::Workloads(_)
                | Command::Status(_)
                | Command::Config(_)
        )
    }
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// The Gateway that this process is [default: the only one of class istio-waypoint].
    #[arg(long, value_name = "NS/NAME")]
    pub(super) gateway: Option<String>,
    /// Where tunnels are taken; [::] takes IPv4 too.
    #[arg(long, default_value = "[::]:15008")]
    pub(super) hbone_addr: SocketAddr,
    /// Admin endpoints.
    #[arg(long, default_value = "127.0.0.1:15000")]
    pub(super) admin_addr: SocketAddr,
    /// Readiness, at /healthz/ready.
    #[arg(long, default_value = "0.0.0.0:15021")]
    pub(super) readiness_addr: SocketAddr,
    /// Metrics, at /stats/prometheus.
    #[arg(long, default_value = "0.0.0.0:15020")]
    pub(super) stats_addr: SocketAddr,
    #[command(flatten)]
    pub(super) certificates: CertificateArgs,
    /// Certificates that are revoked: CRLs in PEM; read again when they change.
    #[arg(long, value_name = "FILE")]
    pub(super) crl: Option<PathBuf>,
    /// Roots that servers outside of the mesh are checked against, where configuration says the system's: PEM; read again
    /// when it changes. Without it, the file where systems usually have them.
    #[arg(long, value_name = "FILE")]
    pub(super) system_roots: Option<PathBuf>,
    /// Seconds that a connection may stay whose peer's root or trust domain is gone.
    #[arg(long, default_value = "3600")]
    pub(super) trust_grace_seconds: u64,
    /// Threads for data [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) concurrency: Option<u16>,
    /// Seconds that whoever comes is still served after SIGTERM, and that what runs then may take to end.
    #[arg(long, default_value = "5")]
    pub(super) drain_seconds: u64,
    /// Tunnels at a time on one connection [default: what the configuration says, 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_concurrent_streams: Option<u32>,
    /// Connections that haven't proven who they are; for a further one the oldest is closed.
    #[arg(long, value_name = "N", default_value_t = Limits::default().handshakes, value_parser = at_least_one)]
    pub(super) max_handshakes: usize,
    /// As many of those from one source: an IPv4 address, or an IPv6 network of 64 bits.
    #[arg(long, value_name = "N", default_value_t = Limits::default().handshakes_per_source, value_parser = at_least_one)]
    pub(super) max_handshakes_per_source: usize,
    /// Units that a client may spend on HTTP/2 frames that do no work, and on such streams; they come back within ten seconds.
    #[arg(long, value_name = "UNITS", default_value_t = Limits::default().frames, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) frame_budget: u32,
    /// Series that one metric may have; what comes beyond is counted in those that say `overflow`.
    #[arg(long, value_name = "N", env = "WAYPOINT_MAX_METRIC_SERIES", default_value_t = MetricLimits::DEFAULT.max_series, value_parser = at_least_one)]
    pub(super) max_metric_series: usize,
    /// Seconds after which a series is forgotten that nobody uses.
    #[arg(long, value_name = "N", default_value_t = MetricLimits::DEFAULT.idle.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) metric_idle_seconds: u64,
    /// What the process may use, as 1Gi [default: what its cgroup may].
    #[arg(long, value_name = "BYTES", env = "WAYPOINT_MEMORY_LIMIT", value_parser = parse_bytes)]
    pub(super) memory_limit: Option<u64>,
    /// Name servers in place of those of /etc/resolv.conf.
    #[arg(
        long = "dns-server",
        value_name = "IP:PORT",
        env = "WAYPOINT_DNS_SERVERS",
        value_delimiter = ','
    )]
    pub(super) dns_servers: Vec<SocketAddr>,
    /// Networks of this machine and its links that names below wildcard hosts may lead to nonetheless.
    #[arg(
        long = "dynamic-dns-allow",
        value_name = "CIDR",
        env = "WAYPOINT_DYNAMIC_DNS_ALLOW",
        value_delimiter = ','
    )]
    pub(super) near_allowed: Vec<IpNet>,
    /// What becomes of a service whose new configuration is refused: the last good one stays, or it is closed.
    #[arg(long, value_enum, default_value = "keep")]
    pub(super) on_refused: OnRefusedArg,
    /// A header in which clients are told which policy denied their request.
    #[arg(long, value_name = "NAME", env = "WAYPOINT_DENIAL_HEADER")]
    pub(super) denial_header: Option<http::HeaderName>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum OnRefusedArg {
    Keep,
    Close,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct SourceArgs {
    /// Manifests: files and folders, YAML or JSON.
    #[arg(short = 'f', long = "filename", value_name = "PATH", num_args = 1..)]
    pub(super) manifests: Vec<PathBuf>,
    /// Recorded discovery responses instead of manifests.
    #[arg(long, value_name = "FILE")]
    pub(super) xds_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct CertificateArgs {
    /// A folder with cert-chain.pem, key.pem and root-cert.pem; loaded again when they change.
    #[arg(long, value_name = "DIR")]
    pub(super) certs: Option<PathBuf>,
    /// A local development CA, made on first use.
    #[arg(long, value_name = "DIR")]
    pub(super) dev_ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct CertArgs {
    /// The folder of the CA; made on first use.
    #[arg(long, value_name = "DIR")]
    pub(super) dev_ca: PathBuf,
    /// For whom, e.g. spiffe://cluster.local/ns/default/sa/curl.
    #[arg(long, value_name = "SPIFFE-ID")]
    pub(super) identity: Identity,
    /// Where cert-chain.pem, key.pem and root-cert.pem are written.
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct ConnectArgs {
    /// The waypoint.
    #[arg(long, value_name = "HOST:15008")]
    pub(super) via: String,
    /// The client's certificate.
    #[arg(long, value_name = "DIR")]
    pub(super) certs: PathBuf,
    /// Where the connections are to go: the address of a Service or a pod.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) to: String,
    /// Where connections are taken.
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: SocketAddr,
    /// The address that the waypoint is to see.
    #[arg(long, value_name = "IP")]
    pub(super) source: Option<IpAddr>,
}

#[derive(Debug, Args)]
pub(super) struct PodArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Check what is seen and end; the exit code says whether it was as it should be.
    #[arg(long)]
    pub(super) once: bool,
    /// The mesh.
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "PATH",
        default_value = "examples/bookinfo"
    )]
    pub(super) manifests: PathBuf,
    /// Where the CA, certificates and the access log go [default: waypoint-demo in the temporary folder].
    #[arg(long, value_name = "DIR")]
    pub(super) work: Option<PathBuf>,
    /// Where the waypoint takes tunnels.
    #[arg(long, default_value = "127.0.0.1:15008")]
    pub(super) hbone_addr: SocketAddr,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number: std::num::NonZeroUsize = text.parse().map_err(|e| format!("{e}"))?;
    Ok(number.get())
}
