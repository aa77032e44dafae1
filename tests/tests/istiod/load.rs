//! Requests without a pause, while something changes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use waypoint_tests::istiod::Pod;
use waypoint_tests::ztunnel::{Http1, get};
use waypoint_tests::{Mesh, Ztunnel};

/// A client's ztunnel at this pod.
pub(crate) async fn client(mesh: &Mesh, pod: &Pod) -> Ztunnel {
    Ztunnel::connect(pod.hbone, &mesh.certificate("default", "curl"))
        .await
        .unwrap()
}

/// Four clients that ask until told to stop; every answer must have one status.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// GET `/load`, to be answered 200.
    pub(crate) async fn start(mesh: &Mesh, pod: &Pod, to: SocketAddr) -> Load {
        Load::of(mesh, pod, to, "/load", StatusCode::OK).await
    }

    pub(crate) async fn of(
        mesh: &Mesh,
        pod: &Pod,
        to: SocketAddr,
        path: &'static str,
        status: StatusCode,
    ) -> Load {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let client = client(mesh, pod).await;
            let mut connection: Http1 = client.http1(to).await;
            let (stop, sent) = (stop.clone(), sent.clone());
            tasks.push(tokio::spawn(async move {
                let _client = client;
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.send(get(path)).await;
                    assert_eq!(answer.status, status, "{path}: {}", answer.text());
                    sent.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }));
        }
        Load { stop, sent, tasks }
    }

    /// How many there were.
    pub(crate) async fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.sent.load(Ordering::Relaxed)
    }
}
