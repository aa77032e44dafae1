//! The command line: a file a command. Its flags are a contract with scripts outside.

mod analyze;
mod args;
mod asked;
mod config;
pub(crate) mod connect;
pub(crate) mod demo;
mod explain;
mod failure;
mod generate;
mod log;
mod serve;
mod services;
mod status;
mod table;
mod terminal;
mod test;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use waypoint_filters::metrics::Limits as MetricLimits;
use waypoint_hbone::certificates::dev_ca::DevCa;

use crate::cli::args::{CertArgs, Cli, Command, ConnectArgs, DemoArgs, OnRefusedArg, RunArgs};
use crate::cli::connect::ConnectOptions;
use crate::cli::demo::DemoOptions;
use crate::cli::failure::Failure;
use crate::cli::services::Kind;
use crate::identity::certificates::DEV_TTL;
use crate::logs::program::{self, ProcessLog};
use crate::pod::agent;
use crate::pod::commands::request::request;
use crate::pod::commands::version::version;
use crate::pod::commands::wait::wait;
use crate::pod::environment::Environment;
use crate::process::allocator::Allocator;
use crate::process::descriptor_limit;
use crate::run::{
    AccessLogTarget, CertificateSource, ConfigSource, CrlFile, DrainTimes, LastResort, Limits,
    OnRefused, RunOptions,
};

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
    if cli.command.only_asks() || matches!(cli.command, Command::Demo(_)) {
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
        Command::Explain(args) => explain::run(*args),
        Command::Test(args) => test::run(args),
        Command::Analyze(args) => analyze::run(args),
        Command::Services(args) => services::run(Kind::Services, args),
        Command::Workloads(args) => services::run(Kind::Workloads, args),
        Command::Status(args) => status::run(args),
        Command::Config(args) => config::run(args),
        Command::Log(args) => log::run(&args),
        Command::Generate(args) => generate::generate(&args),
        Command::Enroll(args) => generate::enroll(&args),
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
        system_roots: args.system_roots,
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
        metrics: MetricLimits {
            max_series: args.max_metric_series,
            idle: Duration::from_secs(args.metric_idle_seconds),
        },
        dns_servers: args.dns_servers,
        near_allowed: args.near_allowed,
        access_log: AccessLogTarget::AsConfigured,
        denial_header: args.denial_header,
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
