//! A scrape each half second of all the series that a metric may have: what requests beside it wait.
//!
//! The waypoint's are Istio's, with a label that clients choose. Envoy's build has none of Istio's metrics; it is scraped for its
//! own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::load::{Mode, Outcome};
use crate::rows::PLAIN;
use crate::scene::{Arrangement, More, Proxy, Scene, get};
use crate::{AllArgs, Failure, median};

/// As many as a metric may have by default.
const USERS: usize = 20_000;
const RATE: usize = 1000;
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &AllArgs, folder: &Path) -> Result<(), Failure> {
    let arrangement = Arrangement {
        more: More::UserLabel,
        ..PLAIN
    };
    let scene = Scene::start(arrangement, &args.waypoint, &args.envoy, folder)?;
    println!(
        "\n| {RATE} requests a second of {USERS} users | p99 µs | p99 µs beside scrapes | lines of a scrape | ms of a scrape |\n|---|---|---|---|---|"
    );
    for proxy in Proxy::BOTH {
        load(&scene, proxy, 0, 6.0)?;
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        let mut scrapes = Scrapes::default();
        for _ in 0..args.rounds {
            alone.push(load(&scene, proxy, RATE, args.seconds)?.p99_us as f64);
            let over = AtomicBool::new(false);
            let (outcome, of_round) = std::thread::scope(|scope| {
                let scraping = scope.spawn(|| scrape(proxy, &over));
                let outcome = load(&scene, proxy, RATE, args.seconds);
                over.store(true, Ordering::Relaxed);
                (outcome, scraping.join())
            });
            beside.push(outcome?.p99_us as f64);
            scrapes = of_round.map_err(|_| "the scraper ended")??;
        }
        println!(
            "| {proxy:?} | {:.0} | {:.0} | {} | {:.1} |",
            median(&alone),
            median(&beside),
            scrapes.lines,
            median(&scrapes.ms)
        );
    }
    Ok(())
}

#[derive(Default)]
struct Scrapes {
    lines: usize,
    ms: Vec<f64>,
}

fn scrape(proxy: Proxy, over: &AtomicBool) -> Result<Scrapes, Failure> {
    let mut scrapes = Scrapes::default();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        scrapes.lines = get(Scene::metrics(proxy), "/stats/prometheus")?
            .lines()
            .count();
        scrapes.ms.push(begun.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(PAUSE);
    }
    Ok(scrapes)
}

fn load(scene: &Scene, proxy: Proxy, rate: usize, seconds: f64) -> Result<Outcome, Failure> {
    let options = [
        ("--users", USERS.to_string()),
        ("--rate", rate.to_string()),
        ("--seconds", seconds.to_string()),
    ];
    let options: Vec<String> = options
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
    Ok(scene.load(proxy, Mode::H1, &options)?.1)
}
