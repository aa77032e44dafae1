//! `waypoint-bench`: the waypoint beside Envoy, in one run, interleaved. Prints a table of ratios; `attack`, what attacks do
//! to a second client.
//!
//! CPU time is each process's own accounting; the medians of the rounds are compared. Machines are noisy,
//! ratios hold.

mod attack;
mod backend;
mod grpc;
mod load;
mod manifests;
mod process;
mod rows;
mod scale;
mod scene;
mod scrapes;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use crate::attack::{AttackArgs, AttackersArgs};
use crate::backend::BackendArgs;
use crate::load::{LoadArgs, Mode};
use crate::process::{cpu, resident};
use crate::rows::{PLAIN, Row};
use crate::scene::{Arrangement, Proxy, Scene};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    all: AllArgs,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The backend's process.
    Backend(BackendArgs),
    /// The load's process.
    Load(LoadArgs),
    /// The shapes of attacks, and what a second client has to wait meanwhile.
    Attack(AttackArgs),
    /// The attackers' process.
    Attackers(AttackersArgs),
}

#[derive(Debug, Args)]
struct AllArgs {
    /// Envoy's binary.
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
    #[arg(long, default_value = "target/release/waypoint")]
    waypoint: PathBuf,
    #[arg(long, default_value = "5")]
    rounds: usize,
    /// Seconds of one measurement.
    #[arg(long, default_value = "3")]
    seconds: f64,
    /// Only rows with one of these in their name.
    #[arg(long, value_delimiter = ';')]
    only: Vec<String>,
}

impl AllArgs {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part))
    }
}

fn main() -> Result<(), Failure> {
    let cli = Cli::parse();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    match cli.part {
        Some(Part::Backend(args)) => runtime()?.block_on(backend::run(args)),
        Some(Part::Load(args)) => runtime()?.block_on(load::run(args)),
        Some(Part::Attack(args)) => attack::compare(&args),
        Some(Part::Attackers(args)) => runtime()?.block_on(attack::run(args)),
        None => compare(&cli.all),
    }
}

fn compare(args: &AllArgs) -> Result<(), Failure> {
    let folder = std::env::temp_dir().join(format!("waypoint-bench-{}", std::process::id()));
    println!(
        "{} rounds of {} s each, one core a proxy; load and backend share the other core.\n",
        args.rounds, args.seconds
    );
    println!(
        "| 1 KiB answers, to GET where nothing else is said | CPU µs/request waypoint | Envoy | ratio | p50 µs at rate waypoint | Envoy | p99 µs at rate waypoint | Envoy | upstream connections per 1,000 requests waypoint | Envoy | limit |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows::all().iter().filter(|row| args.wants(&row.name)) {
        let scene = Scene::start(row.arrangement, &args.waypoint, &args.envoy, &folder)?;
        println!("{}", measure(row, &scene, args)?);
    }
    if args.wants("memory") {
        memory(args, &folder)?;
    }
    if args.wants("connection") {
        connection_share(args, &folder)?;
    }
    if args.wants("scrapes") {
        scrapes::run(args, &folder)?;
    }
    let _ = std::fs::remove_dir_all(&folder);
    for services in [100, 1000] {
        if args.wants(&format!("scale {services}")) {
            scale::run(services, &args.waypoint, &args.envoy)?;
        }
    }
    Ok(())
}

/// One proxy's share of a row.
#[derive(Default)]
struct Samples {
    cpu_us: Vec<f64>,
    rate: Vec<f64>,
    busy: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    /// New upstream connections per 1,000 requests.
    connections: Vec<f64>,
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn measure(row: &Row, scene: &Scene, args: &AllArgs) -> Result<String, Failure> {
    let mut samples = [Samples::default(), Samples::default()];
    let options = |seconds: f64, rate: f64| {
        vec![
            "--clients".to_owned(),
            row.clients.to_string(),
            "--body".to_owned(),
            row.body.to_string(),
            "--users".to_owned(),
            row.arrangement.more.users().to_string(),
            "--seconds".to_owned(),
            seconds.to_string(),
            "--rate".to_owned(),
            rate.to_string(),
        ]
    };
    for proxy in Proxy::BOTH {
        scene.load(proxy, row.mode, &options(1.0, 0.0))?;
    }
    for _ in 0..args.rounds {
        for (proxy, samples) in Proxy::BOTH.into_iter().zip(&mut samples) {
            let connections = scene.upstream_connections()?;
            let (before, start) = (cpu(scene.pid(proxy))?, Instant::now());
            let (_, outcome) = scene.load(proxy, row.mode, &options(args.seconds, 0.0))?;
            let used = (cpu(scene.pid(proxy))? - before).as_secs_f64();
            if outcome.errors > 0 || outcome.requests == 0 {
                return Err(format!("{}, {proxy:?}: {outcome:?}", row.name).into());
            }
            // Less the one that asks.
            let connections = scene.upstream_connections()? - connections - 1;
            let connections = connections as f64 * 1e3 / outcome.requests as f64;
            samples.connections.push(connections);
            samples.cpu_us.push(used * 1e6 / outcome.requests as f64);
            samples.rate.push(outcome.requests as f64 / args.seconds);
            samples.busy.push(used / start.elapsed().as_secs_f64());
        }
    }
    // A rate that leaves both of them room.
    let rate = 0.5
        * samples
            .iter()
            .map(|s| median(&s.rate))
            .fold(f64::INFINITY, f64::min);
    for _ in 0..args.rounds {
        for (proxy, samples) in Proxy::BOTH.into_iter().zip(&mut samples) {
            let (_, outcome) = scene.load(proxy, row.mode, &options(args.seconds, rate))?;
            samples.p50.push(outcome.p50_us as f64);
            samples.p99.push(outcome.p99_us as f64);
        }
    }
    let [ours, theirs] = &samples;
    let (a, b) = (median(&ours.cpu_us), median(&theirs.cpu_us));
    let limit = match (median(&ours.busy) < 0.85, median(&theirs.busy) < 0.85) {
        (true, true) => "the load, for both",
        (true, false) => "the load, for the waypoint",
        (false, true) => "the load, for Envoy",
        (false, false) => "the proxies",
    };
    Ok(format!(
        "| {} | {a:.1} | {b:.1} | **{:.2}** | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} | {limit}; rate {rate:.0}/s |",
        row.name,
        a / b,
        median(&ours.p50),
        median(&theirs.p50),
        median(&ours.p99),
        median(&theirs.p99),
        median(&ours.connections),
        median(&theirs.connections),
    ))
}

/// Resident memory at rest, and with 1,000 open tunnels.
fn memory(args: &AllArgs, folder: &Path) -> Result<(), Failure> {
    let arrangement = Arrangement { rules: 1, ..PLAIN };
    let scene = Scene::start(arrangement, &args.waypoint, &args.envoy, folder)?;
    std::thread::sleep(Duration::from_secs(1));
    println!("\n| resident memory, MiB | waypoint | Envoy | ratio |\n|---|---|---|---|");
    let line = |what: &str, [a, b]: [u64; 2]| {
        println!(
            "| {what} | {:.1} | {:.1} | **{:.2}** |",
            a as f64 / 1024.0,
            b as f64 / 1024.0,
            a as f64 / b as f64
        );
    };
    let both = || -> Result<[u64; 2], Failure> {
        Ok([
            resident(scene.pid(Proxy::Waypoint))?,
            resident(scene.pid(Proxy::Envoy))?,
        ])
    };
    line("at rest", both()?);
    let hold = ["--hold".to_owned(), "1000".to_owned()];
    let _ours = scene.load(Proxy::Waypoint, Mode::H1, &hold)?;
    let _theirs = scene.load(Proxy::Envoy, Mode::H1, &hold)?;
    line("1,000 open tunnels", both()?);
    Ok(())
}

/// The share of the waypoint's CPU time that one HBONE connection's own task takes.
fn connection_share(args: &AllArgs, folder: &Path) -> Result<(), Failure> {
    let arrangement = Arrangement { rules: 1, ..PLAIN };
    let scene = Scene::start(arrangement, &args.waypoint, &args.envoy, folder)?;
    let options = ["--clients", "50", "--seconds", "5"].map(str::to_owned);
    let mut shares = Vec::new();
    for _ in 0..args.rounds {
        let (used, task) = (cpu(scene.pid(Proxy::Waypoint))?, scene.connection_task()?);
        scene.load(Proxy::Waypoint, Mode::H1, &options)?;
        let used = cpu(scene.pid(Proxy::Waypoint))? - used;
        let task = scene.connection_task()? - task;
        shares.push(task.as_secs_f64() / used.as_secs_f64());
    }
    println!(
        "\nOne HBONE connection with 50 tunnels: its own task (TLS and framing) takes {:.2} of the CPU time.",
        median(&shares)
    );
    Ok(())
}
