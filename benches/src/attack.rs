//! Attacks of a peer that has a certificate of the mesh: what a second client has to wait meanwhile, and the memory that it
//! takes, beside Envoy.
//!
//! The second client is a load at a rate that leaves both proxies room, and its latency counts from when each request was
//! due. The attackers are a process of their own, on the load's core and with less priority, so that it is the proxy
//! which the second client waits for. A connection that is closed isn't made again.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::identity::Identity;
use waypoint_tests::attack::{Place, attack, shapes};

use crate::Failure;
use crate::load::{Mode, Outcome};
use crate::process::{Process, forget_peak, peak};
use crate::scene::{Arrangement, LOAD_CORE, More, Proxy, Scene};

/// Of the second client: requests at a time, and a second.
const CLIENTS: usize = 4;
const RATE: usize = 300;
/// Streams that an attack inside a tunnel holds.
const TUNNEL_STREAMS: u32 = 900;

#[derive(Clone, Debug, Args)]
pub(crate) struct AttackArgs {
    /// Envoy's binary.
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
    #[arg(long, default_value = "target/release/waypoint")]
    waypoint: PathBuf,
    /// Seconds of one measurement.
    #[arg(long, default_value = "4")]
    seconds: u64,
    /// Attacking connections; with more than ten, others may wait ten times as long, not twice.
    #[arg(long, value_delimiter = ',', default_value = "4,100")]
    connections: Vec<usize>,
    /// Only shapes with this in their name.
    #[arg(long, default_value = "")]
    only: String,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct AttackersArgs {
    #[arg(long)]
    via: std::net::SocketAddr,
    #[arg(long)]
    to: std::net::SocketAddr,
    #[arg(long)]
    ca: PathBuf,
    /// Which of the shapes.
    #[arg(long)]
    shape: usize,
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    seconds: u64,
}

/// What became of the attackers.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Ends {
    closed: usize,
    goaways: usize,
    failed: usize,
}

/// The attackers' process: prints what became of them.
pub(crate) async fn run(args: AttackersArgs) -> Result<(), Failure> {
    let mut shape = *shapes().get(args.shape).ok_or("no such shape")?;
    if shape.place == Place::Tunnel {
        shape.streams = TUNNEL_STREAMS;
    }
    let identity = Identity::istio("cluster.local", "default", "attacker")?;
    let ca = DevCa::open_or_create(&args.ca)?;
    let certificate = std::sync::Arc::new(ca.mint(&identity, Duration::from_secs(24 * 3600))?);
    let length = Duration::from_secs(args.seconds);
    let attackers: Vec<_> = (0..args.connections)
        .map(|_| {
            let certificate = certificate.clone();
            tokio::spawn(
                async move { attack(&shape, args.via, &certificate, args.to, length).await },
            )
        })
        .collect();
    let mut ends = Ends::default();
    for attacker in attackers {
        match attacker.await? {
            Ok(outcome) => {
                ends.closed += usize::from(outcome.closed);
                ends.goaways += usize::from(outcome.goaway.is_some());
            }
            Err(_) => ends.failed += 1,
        }
    }
    println!("{}", serde_json::to_string(&ends)?);
    Ok(())
}

struct Measured {
    second: Outcome,
    ends: Ends,
    peak_mib: u64,
}

pub(crate) fn compare(args: &AttackArgs) -> Result<(), Failure> {
    let folder = std::env::temp_dir().join(format!("waypoint-attack-{}", std::process::id()));
    println!(
        "{} s each, one core a proxy; {RATE} requests a second of a second client, p50 and p99 in ms.\n",
        args.seconds
    );
    let mut scene = start(args, &folder)?;
    let quiet = Proxy::BOTH.map(|proxy| second_client(&scene, proxy, args));
    let [ours, theirs] = [quiet[0].as_ref(), quiet[1].as_ref()]
        .map(Result::ok)
        .map(times);
    println!(
        "| attack | connections | waypoint: p50, p99 | closed | MiB at most | verdict | Envoy: p50, p99 | closed | MiB at most |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    println!("| none | 0 | {ours} | | | | {theirs} | | |");
    let calm = quiet[0].as_ref().map_or(0, |outcome| outcome.p99_us);
    for connections in &args.connections {
        for (n, shape) in shapes().iter().enumerate() {
            let name = format!("{}: {}", place(shape.place), shape.name);
            if !name.contains(&args.only) {
                continue;
            }
            let [ours, theirs] =
                Proxy::BOTH.map(|proxy| measure(&scene, proxy, args, n, *connections));
            let verdict = verdict(&ours, calm, *connections);
            println!(
                "| {name} | {connections} | {} | {verdict} | {} |",
                columns(&ours),
                columns(&theirs)
            );
            if ours.is_err() || theirs.is_err() {
                // One of them may be gone.
                drop(scene);
                scene = start(args, &folder)?;
            }
        }
    }
    drop(scene);
    let _ = std::fs::remove_dir_all(&folder);
    Ok(())
}

fn start(args: &AttackArgs, folder: &Path) -> Result<Scene, Failure> {
    let arrangement = Arrangement {
        hbone_upstream: false,
        rules: 1,
        access_log: false,
        more: More::Nothing,
    };
    let scene = Scene::start(arrangement, &args.waypoint, &args.envoy, folder)?;
    for proxy in Proxy::BOTH {
        second_client(&scene, proxy, args)?;
    }
    Ok(scene)
}

fn second_client(scene: &Scene, proxy: Proxy, args: &AttackArgs) -> Result<Outcome, Failure> {
    let options = [
        ("--clients", CLIENTS.to_string()),
        ("--rate", RATE.to_string()),
        ("--seconds", args.seconds.to_string()),
    ];
    let options: Vec<String> = options
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
    Ok(scene.load(proxy, Mode::H1, &options)?.1)
}

fn measure(
    scene: &Scene,
    proxy: Proxy,
    args: &AttackArgs,
    shape: usize,
    connections: usize,
) -> Result<Measured, Failure> {
    forget_peak(scene.pid(proxy))?;
    let words = [
        "nice".to_owned(),
        std::env::current_exe()?.to_string_lossy().into_owned(),
        "attackers".to_owned(),
        format!("--via={}", proxy.address()),
        format!("--to={}", Scene::service()),
        format!("--ca={}", scene.folder().join("ca").display()),
        format!("--shape={shape}"),
        format!("--connections={connections}"),
        // They are there before the second client, and as long.
        format!("--seconds={}", args.seconds + 1),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (attackers, mut out) = Process::start_piped(LOAD_CORE, &words)?;
    std::thread::sleep(Duration::from_millis(200));
    let second = second_client(scene, proxy, args)?;
    let mut line = String::new();
    out.read_line(&mut line)?;
    drop(attackers);
    let ends = serde_json::from_str(&line).map_err(|_| format!("the attackers ended: {line:?}"))?;
    Ok(Measured {
        second,
        ends,
        peak_mib: peak(scene.pid(proxy))? / 1024,
    })
}

fn place(place: Place) -> &'static str {
    match place {
        Place::Hbone => "HBONE",
        Place::Tunnel => "h2c",
        Place::Http1 => "HTTP/1.1",
    }
}

fn times(outcome: Option<&Outcome>) -> String {
    let Some(outcome) = outcome else {
        return "failed".to_owned();
    };
    let ms = |us: u64| us as f64 / 1000.0;
    let errors = match outcome.errors {
        0 => String::new(),
        n => format!(", {n} errors"),
    };
    format!(
        "{:.1}, {:.1}{errors}",
        ms(outcome.p50_us),
        ms(outcome.p99_us)
    )
}

fn columns(measured: &Result<Measured, Failure>) -> String {
    match measured {
        Err(error) => format!("{error} | | "),
        Ok(measured) => {
            let Ends {
                closed,
                goaways,
                failed,
            } = measured.ends;
            let refused = match failed {
                0 => String::new(),
                n => format!(", {n} never came to it"),
            };
            format!(
                "{} | {closed}, {goaways} by GOAWAY{refused} | {}",
                times(Some(&measured.second)),
                measured.peak_mib
            )
        }
    }
}

/// The aim: twice as long for a few connections, ten times for many.
fn verdict(ours: &Result<Measured, Failure>, calm_p99_us: u64, connections: usize) -> String {
    let times = if connections <= 10 { 2 } else { 10 };
    match ours {
        Ok(measured)
            if measured.second.errors == 0 && measured.second.p99_us <= times * calm_p99_us =>
        {
            "held".to_owned()
        }
        Ok(measured) if measured.second.errors > 0 => "failed".to_owned(),
        Ok(measured) => {
            format!(
                "×{:.1}",
                measured.second.p99_us as f64 / calm_p99_us.max(1) as f64
            )
        }
        Err(_) => "failed".to_owned(),
    }
}
