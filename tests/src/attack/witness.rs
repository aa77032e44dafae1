//! The second client: requests one after the other on a connection of its own, each of which is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::task::JoinHandle;

use crate::Ztunnel;
use crate::ztunnel::get;

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(3);

/// A client that goes on until it is asked what it saw.
pub struct Witness {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Duration>>,
}

/// What it saw.
#[derive(Clone, Copy, Debug)]
pub struct Latencies {
    pub answers: usize,
    pub p50: Duration,
    pub p99: Duration,
}

impl Witness {
    /// GETs of `path` through this client, which must all be answered 200.
    pub async fn start(client: Ztunnel, to: SocketAddr, path: &'static str) -> Witness {
        let stop = Arc::new(AtomicBool::new(false));
        let mut connection = client.http1(to).await;
        let told = stop.clone();
        let task = tokio::spawn(async move {
            let _client = client;
            let mut seen = Vec::new();
            while !told.load(Ordering::Relaxed) {
                let start = Instant::now();
                let answer = connection.send(get(path)).await;
                seen.push(start.elapsed());
                assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
                tokio::time::sleep(PAUSE).await;
            }
            seen
        });
        Witness { stop, task }
    }

    /// Stops.
    ///
    /// # Panics
    /// A request wasn't answered 200.
    pub async fn finish(self) -> Latencies {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = self.task.await.unwrap();
        seen.sort_unstable();
        let at = |q: usize| seen.get(seen.len() * q / 100).copied().unwrap_or_default();
        Latencies {
            answers: seen.len(),
            p50: at(50),
            p99: at(99),
        }
    }
}
