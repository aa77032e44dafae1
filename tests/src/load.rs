//! Requests without a pause, every one of which must be answered 200.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinHandle;

use crate::mesh::{Mesh, Waypoint};
use crate::wait::until;
use crate::ztunnel::get;

const CONNECTIONS: usize = 3;

/// A load until it is told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// On connections that stay open.
    pub async fn start(mesh: &Mesh, waypoint: &Waypoint, to: SocketAddr) -> Load {
        let mut load = Load::idle();
        for _ in 0..CONNECTIONS {
            let client = mesh.client(waypoint, "default", "curl").await;
            let mut connection = client.http1(to).await;
            let (stop, sent) = (load.stop.clone(), load.sent.clone());
            load.tasks.push(tokio::spawn(async move {
                let _client = client;
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.send(get("/load")).await;
                    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
                    sent.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }));
        }
        load
    }

    /// On a new HBONE connection for every request.
    pub fn reconnecting(mesh: &Mesh, waypoint: &Waypoint, to: SocketAddr) -> Load {
        let mut load = Load::idle();
        let (stop, sent) = (load.stop.clone(), load.sent.clone());
        let certificate = mesh.certificate("default", "curl");
        let address = waypoint.address();
        load.tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let client = crate::Ztunnel::connect(address, &certificate)
                    .await
                    .unwrap();
                let answer = client.get(to, "/load").await;
                assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }));
        load
    }

    fn idle() -> Load {
        Load {
            stop: Arc::default(),
            sent: Arc::default(),
            tasks: Vec::new(),
        }
    }

    /// Waits for this many more answers.
    pub async fn more(&self, n: usize) {
        let wanted = self.sent.load(Ordering::Relaxed) + n;
        until("more answers", async || {
            let ended = self.tasks.iter().any(JoinHandle::is_finished);
            (ended || self.sent.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    /// Stops.
    ///
    /// # Panics
    /// A request wasn't answered 200.
    pub async fn finish(self) {
        self.more(1).await;
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}
