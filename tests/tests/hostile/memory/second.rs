//! The second client: it asks for little, all the time, and is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::task::JoinHandle;
use waypoint_tests::Ztunnel;
use waypoint_tests::ztunnel::get;

use super::scene::{Scene, ztunnel};

/// So much the second client does in any case, before it stops.
pub(super) const ENOUGH: usize = 10;

/// A client that asks for little, all the time.
pub(super) struct Second {
    pub(super) stop: Arc<AtomicBool>,
    pub(super) keeping: JoinHandle<Seen>,
    pub(super) opening: JoinHandle<Seen>,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) times: Vec<Duration>,
    pub(super) failed: usize,
}

impl Seen {
    pub(super) fn at(&mut self, percent: usize) -> Duration {
        self.times.sort_unstable();
        let last = self.times.len().saturating_sub(1);
        self.times
            .get(last * percent / 100)
            .copied()
            .unwrap_or_default()
    }
}

impl Second {
    pub(super) async fn start(scene: &Scene) -> Second {
        let stop = Arc::new(AtomicBool::new(false));
        let certificate = scene.mesh.certificate("default", "curl");
        let (via, to) = (scene.waypoint.hbone, scene.other);
        let client = ztunnel(via, &certificate).await;
        let mut kept = client.http1(to).await;
        let stopped = stop.clone();
        let keeping = tokio::spawn(async move {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) || seen.times.len() < ENOUGH {
                let start = Instant::now();
                let answer = kept.send(get("/kept")).await;
                seen.times.push(start.elapsed());
                seen.failed += usize::from(answer.status != StatusCode::OK);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            seen
        });
        let stopped = stop.clone();
        let authority = to.to_string();
        let opening = tokio::spawn(async move {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) || seen.times.len() < ENOUGH {
                let start = Instant::now();
                // Now on the connection that is open, then on one of its own.
                let own = match seen.times.len() % 4 {
                    0 => Ztunnel::connect(via, &certificate).await.ok(),
                    _ => None,
                };
                let opened = own.as_ref().unwrap_or(&client).connect_to(&authority, &[]);
                let granted = matches!(opened.await, Ok((StatusCode::OK, _)));
                seen.times.push(start.elapsed());
                seen.failed += usize::from(!granted);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            seen
        });
        Second {
            stop,
            keeping,
            opening,
        }
    }

    /// No request on an open connection failed, and next to no new tunnel.
    pub(super) async fn finish(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let mut kept = self.keeping.await.unwrap();
        let mut opened = self.opening.await.unwrap();
        eprintln!(
            "{what}: second client: {} requests p50 {:?} p99 {:?} failed {}, {} tunnels p50 {:?} p99 {:?} failed {}",
            kept.times.len(),
            kept.at(50),
            kept.at(99),
            kept.failed,
            opened.times.len(),
            opened.at(50),
            opened.at(99),
            opened.failed,
        );
        assert_eq!(kept.failed, 0, "{what}: requests of the second client");
        assert!(
            opened.failed * 5 <= opened.times.len(),
            "{what}: {} of {} tunnels of the second client were refused",
            opened.failed,
            opened.times.len()
        );
    }
}
