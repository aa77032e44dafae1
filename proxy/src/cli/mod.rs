//! The command line: `waypoint run`, `cert`, `connect`, `demo`. Its flags are a contract with scripts outside.

pub(crate) mod connect;
pub(crate) mod demo;
mod serve;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::identity::Identity;

use crate::cli::connect::ConnectOptions;
use crate::cli::demo::DemoOptions;
use crate::identity::certificates::DEV_TTL;
use crate::logs::program::{self, ProcessLog};
use crate::pod::agent;
use crate::pod::environment::Environment;
use crate::pod::request::request;
use crate::pod::version::{VersionArgs, version};
use crate::pod::wait::{WaitArgs, wait};
use crate::process::allocator::Allocator;
use crate::process::descriptor_limit;
use crate::run::{
    AccessLogTarget, CertificateSource, ConfigSource, CrlFile, DrainTimes, LastResort, Limits,
    OnRefused, RunOptions, parse_bytes,
};

/// The L7 waypoint proxy of an Istio ambient mesh.
#[derive(Debug, Parser)]
#[command(name = "waypoint", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What is logged on stderr: a level, or target=level,… [default: info; demo: warn]
    #[arg(long, global = true, env = "WAYPOINT_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a waypoint from Kubernetes manifests.
    Run(Box<RunArgs>),
    /// Mint a workload certificate with a local development CA.
    Cert(CertArgs),
    /// Play a small mesh with a waypoint in it, and send requests through.
    Demo(DemoArgs),
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

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// The Gateway that this process is [default: the only one of class istio-waypoint].
    #[arg(long, value_name = "NS/NAME")]
    gateway: Option<String>,
    /// Where tunnels are taken; [::] takes IPv4 too.
    #[arg(long, default_value = "[::]:15008")]
    hbone_addr: SocketAddr,
    /// Admin endpoints.
    #[arg(long, default_value = "127.0.0.1:15000")]
    admin_addr: SocketAddr,
    /// Readiness, at /healthz/ready.
    #[arg(long, default_value = "0.0.0.0:15021")]
    readiness_addr: SocketAddr,
    /// Metrics, at /stats/prometheus.
    #[arg(long, default_value = "0.0.0.0:15020")]
    stats_addr: SocketAddr,
    #[command(flatten)]
    certificates: CertificateArgs,
    /// Certificates that are revoked: CRLs in PEM; read again when they change.
    #[arg(long, value_name = "FILE")]
    crl: Option<PathBuf>,
    /// Seconds that a connection may stay whose peer's root or trust domain is gone.
    #[arg(long, default_value = "3600")]
    trust_grace_seconds: u64,
    /// Threads for data [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: Option<u16>,
    /// Seconds that whoever comes is still served after SIGTERM, and that what runs then may take to end.
    #[arg(long, default_value = "5")]
    drain_seconds: u64,
    /// Tunnels at a time on one connection [default: what the configuration says, 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrent_streams: Option<u32>,
    /// Connections that haven't proven who they are; for a further one the oldest is closed.
    #[arg(long, value_name = "N", default_value_t = Limits::default().handshakes, value_parser = at_least_one)]
    max_handshakes: usize,
    /// As many of those from one source: an IPv4 address, or an IPv6 network of 64 bits.
    #[arg(long, value_name = "N", default_value_t = Limits::default().handshakes_per_source, value_parser = at_least_one)]
    max_handshakes_per_source: usize,
    /// Units that a client may spend on HTTP/2 frames that do no work, and on such streams; they come back within ten seconds.
    #[arg(long, value_name = "UNITS", default_value_t = Limits::default().frames, value_parser = clap::value_parser!(u32).range(1..))]
    frame_budget: u32,
    /// What the process may use, as 1Gi [default: what its cgroup may].
    #[arg(long, value_name = "BYTES", env = "WAYPOINT_MEMORY_LIMIT", value_parser = parse_bytes)]
    memory_limit: Option<u64>,
    /// Name servers in place of those of /etc/resolv.conf.
    #[arg(
        long = "dns-server",
        value_name = "IP:PORT",
        env = "WAYPOINT_DNS_SERVERS",
        value_delimiter = ','
    )]
    dns_servers: Vec<SocketAddr>,
    /// What becomes of a service whose new configuration is refused: the last good one stays, or it is closed.
    #[arg(long, value_enum, default_value = "keep")]
    on_refused: OnRefusedArg,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OnRefusedArg {
    Keep,
    Close,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SourceArgs {
    /// Manifests: files and folders, YAML or JSON.
    #[arg(short = 'f', long = "filename", value_name = "PATH", num_args = 1..)]
    manifests: Vec<PathBuf>,
    /// Recorded discovery responses instead of manifests.
    #[arg(long, value_name = "FILE")]
    xds_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct CertificateArgs {
    /// A folder with cert-chain.pem, key.pem and root-cert.pem; loaded again when they change.
    #[arg(long, value_name = "DIR")]
    certs: Option<PathBuf>,
    /// A local development CA, made on first use.
    #[arg(long, value_name = "DIR")]
    dev_ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CertArgs {
    /// The folder of the CA; made on first use.
    #[arg(long, value_name = "DIR")]
    dev_ca: PathBuf,
    /// For whom, e.g. spiffe://cluster.local/ns/default/sa/curl.
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: Identity,
    /// Where cert-chain.pem, key.pem and root-cert.pem are written.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct ConnectArgs {
    /// The waypoint.
    #[arg(long, value_name = "HOST:15008")]
    via: String,
    /// The client's certificate.
    #[arg(long, value_name = "DIR")]
    certs: PathBuf,
    /// Where the connections are to go: the address of a Service or a pod.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// Where connections are taken.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// The address that the waypoint is to see.
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
}

#[derive(Debug, Args)]
struct PodArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Check what is seen and end; the exit code says whether it was as it should be.
    #[arg(long)]
    once: bool,
    /// The mesh.
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "PATH",
        default_value = "examples/bookinfo"
    )]
    manifests: PathBuf,
    /// Where the CA, certificates and the access log go [default: waypoint-demo in the temporary folder].
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Where the waypoint takes tunnels.
    #[arg(long, default_value = "127.0.0.1:15008")]
    hbone_addr: SocketAddr,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number: std::num::NonZeroUsize = text.parse().map_err(|e| format!("{e}"))?;
    Ok(number.get())
}

/// Why a command failed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the command that the process was started with. A link named `pilot-agent` is this program, too.
///
/// `allocator` is the process's.
pub fn main(allocator: Allocator) -> ExitCode {
    let cli = Cli::parse();
    let pod = match &cli.command {
        Command::Proxy(args) => match agent::environment(&args.words) {
            Ok(environment) => Some(environment),
            Err(error) => {
                complain(&error);
                return ExitCode::FAILURE;
            }
        },
        _ => None,
    };
    let mut settings = pod.as_ref().map(|pod| pod.log.clone()).unwrap_or_default();
    if matches!(cli.command, Command::Demo(_)) {
        settings.level = LevelFilter::WARN;
    }
    let filter = match &cli.log {
        None => EnvFilter::default().add_directive(settings.level.into()),
        Some(log) => match EnvFilter::try_new(log) {
            Ok(filter) => filter,
            Err(error) => {
                complain(&format!("--log {log}: {error}"));
                return ExitCode::from(2);
            }
        },
    };
    let log = program::start(filter, settings.json, settings.stdout);
    let done = match cli.command {
        Command::Run(args) => {
            let concurrency = args.concurrency;
            run(run_options(*args), allocator, concurrency, &log)
        }
        Command::Proxy(_) => pod
            .ok_or_else(|| "no pod".into())
            .and_then(|pod| run_pod(pod, allocator, &log)),
        Command::Request(args) => request(&args.words).map_err(Into::into).and_then(|answer| {
            std::io::stdout().write_all(&answer)?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Wait(args) => wait(&args).map_err(Into::into).map(|()| ExitCode::SUCCESS),
        Command::Version(args) => std::io::stdout()
            .write_all(version(&args).as_bytes())
            .map_err(Into::into)
            .map(|()| ExitCode::SUCCESS),
        Command::Cert(args) => cert(&args),
        Command::Connect(args) => connect(args),
        Command::Demo(args) => demo(args),
    };
    log.flush();
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Says why a command failed. That nobody reads it is no reason to fail otherwise, as `eprintln!` does.
fn complain(error: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "waypoint: {error}");
}

fn run_pod(
    environment: Environment,
    allocator: Allocator,
    log: &ProcessLog,
) -> Result<ExitCode, Failure> {
    if !environment.ignored.is_empty() {
        tracing::info!(
            settings = environment.ignored.join(", "),
            "given and without effect"
        );
    }
    let options = agent::options(&environment);
    run(options, allocator, environment.concurrency, log)
}

fn run(
    options: RunOptions,
    allocator: Allocator,
    concurrency: Option<u16>,
    log: &ProcessLog,
) -> Result<ExitCode, Failure> {
    descriptor_limit::raise();
    let last = log.clone();
    let options = RunOptions {
        allocator,
        log_levels: log.levels.clone(),
        log_losses: log.losses.clone(),
        last_resort: LastResort::new(move |what| {
            tracing::error!(what, "the process ends");
            last.flush();
            std::process::exit(1);
        }),
        ..options
    };
    let runtime = data_runtime(concurrency)?;
    let code = runtime.block_on(serve::serve(options))?;
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(code)
}

fn run_options(args: RunArgs) -> RunOptions {
    let source = match args.source.xds_file {
        Some(file) => ConfigSource::XdsFile(file),
        None => ConfigSource::Manifests {
            paths: args.source.manifests,
            gateway: args.gateway,
        },
    };
    let certificates = match (args.certificates.certs, args.certificates.dev_ca) {
        (Some(dir), _) => CertificateSource::Dir(dir),
        (None, dir) => CertificateSource::DevCa(dir.unwrap_or_default()),
    };
    RunOptions {
        hbone_addr: args.hbone_addr,
        admin_addr: args.admin_addr,
        readiness_addr: args.readiness_addr,
        stats_addr: args.stats_addr,
        crl: args.crl.map(|path| CrlFile {
            path,
            optional: false,
        }),
        trust_grace: Duration::from_secs(args.trust_grace_seconds),
        drain: DrainTimes::open_for(Duration::from_secs(args.drain_seconds)),
        limits: Limits {
            streams: args.max_concurrent_streams,
            handshakes: args.max_handshakes,
            handshakes_per_source: args.max_handshakes_per_source,
            memory: args.memory_limit,
            frames: args.frame_budget,
            ..Limits::default()
        },
        dns_servers: args.dns_servers,
        access_log: AccessLogTarget::AsConfigured,
        on_refused: match args.on_refused {
            OnRefusedArg::Keep => OnRefused::Keep,
            OnRefusedArg::Close => OnRefused::Close,
        },
        ..RunOptions::new(source, certificates)
    }
}

/// One thread spares the wake-ups between threads; with more, a tunnel may run on any.
fn data_runtime(concurrency: Option<u16>) -> std::io::Result<Runtime> {
    let threads = concurrency.map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from),
        usize::from,
    );
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder
        .worker_threads(threads)
        .thread_name("data")
        .enable_all()
        .build()
}

fn cert(args: &CertArgs) -> Result<ExitCode, Failure> {
    DevCa::open_or_create(&args.dev_ca)?
        .mint(&args.identity, DEV_TTL)?
        .write(&args.out)?;
    writeln!(
        std::io::stdout(),
        "{}: certificate for {}, valid for 24 hours",
        args.out.display(),
        args.identity
    )?;
    Ok(ExitCode::SUCCESS)
}

fn connect(args: ConnectArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let carrying = connect::run(ConnectOptions {
            via: args.via,
            certs: args.certs,
            to: args.to,
            listen: args.listen,
            source: args.source,
        });
        tokio::select! {
            result = carrying => result?,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn demo(args: DemoArgs) -> Result<ExitCode, Failure> {
    data_runtime(None)?.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let options = DemoOptions {
            manifests: args.manifests,
            work: args
                .work
                .unwrap_or_else(|| std::env::temp_dir().join("waypoint-demo")),
            hbone_addr: args.hbone_addr,
            once: args.once,
        };
        let ended = async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        // Whoever says it twice doesn't want to wait for anything.
        let mut again = signal(SignalKind::interrupt())?;
        let twice = async {
            again.recv().await;
            again.recv().await;
        };
        tokio::select! {
            played = demo::run(options, ended) => played?,
            () = twice => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_a_contract() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let line = "waypoint run -f a -f b --gateway default/waypoint --hbone-addr [::]:15008 \
            --admin-addr 127.0.0.1:15000 --readiness-addr 0.0.0.0:15021 --stats-addr 0.0.0.0:15020 \
            --dev-ca ca --concurrency 2";
        let Command::Run(args) = Cli::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        else {
            panic!("run");
        };
        let options = run_options(*args);
        assert_eq!(options.certificates, CertificateSource::DevCa("ca".into()));
        let ConfigSource::Manifests { paths, gateway } = options.source else {
            panic!("manifests");
        };
        assert_eq!(
            (paths.len(), gateway.as_deref()),
            (2, Some("default/waypoint"))
        );
        for wrong in [
            "waypoint run -f a",
            "waypoint run --dev-ca ca",
            "waypoint run -f a --certs c --dev-ca d",
            "waypoint run -f a --xds-file b --certs c",
            "waypoint cert --dev-ca ca --identity http://x --out o",
        ] {
            assert!(
                Cli::try_parse_from(wrong.split_whitespace()).is_err(),
                "{wrong}"
            );
        }
    }
}
