//! Peers whose packets vanish: nothing is closed, nothing is answered. They are noticed by PINGs, as istiod sets them:
//! after 10 s of silence, and 20 s more for the answer. These stories take as long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use waypoint_proxy::run::DrainTimes;
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{App, Mesh, Ztunnel};

/// Silence, the answer's time, and some slack.
const BOUND: Duration = Duration::from_secs(60);

/// A cable that can be cut without either end being told. Connections made after the cut go through.
struct Cable {
    cut: Arc<watch::Sender<u64>>,
}

impl Cable {
    async fn new(from: SocketAddr, to: SocketAddr) -> Cable {
        let listener = TcpListener::bind(from).await.unwrap();
        let cut = Arc::new(watch::Sender::new(0));
        let cuts = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cuts.subscribe();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Cable { cut }
    }

    fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_ztunnel_before_a_pod_is_left_for_a_new_connection() {
    let mesh = Mesh::new();
    let (pod, behind) = (mesh.pod_ip(1), mesh.pod_ip(9));
    mesh.describe_pod(1, "web-1", "web", true);
    let app = App::http(SocketAddr::new(pod, 8080), "web").await;
    let ztunnel = PodZtunnel::start(behind, &mesh.certificate("default", "web")).await;
    let cable = Cable::new(SocketAddr::new(pod, 15008), SocketAddr::new(behind, 15008)).await;
    let to = mesh.service(1, "web");
    let (_waypoint, client) = mesh.started().await;
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    let mut slow = client.tunnel(to).await;
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: test\r\nx-delay-ms: 1000\r\n\r\n")
        .await
        .unwrap();
    until("the slow request", async || {
        (app.seen().len() == 2).then_some(())
    })
    .await;
    cable.cut();
    let silent = Instant::now();
    let mut answer = [0; 4096];
    let n = tokio::time::timeout(BOUND, slow.read(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer[..n.expect("in time").unwrap()]).into_owned();
    assert!(silent.elapsed() > Duration::from_secs(15), "{answer}");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    assert_eq!(ztunnel.connections(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_is_let_go() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let until_unused = DrainTimes {
        open: Duration::ZERO,
        until_unused: true,
        finish: Duration::ZERO,
    };
    let waypoint = mesh
        .start_with(|options| options.drain = until_unused)
        .await;
    let cable_at = SocketAddr::new(mesh.pod_ip(200), 15008);
    let cable = Cable::new(cable_at, waypoint.address()).await;
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect(cable_at, &certificate).await.unwrap();
    let mut connection = client.http1(to).await;
    assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);
    cable.cut();
    let silent = Instant::now();
    // Nothing is left of it: the drain that waits for the last connection ends.
    assert!(
        tokio::time::timeout(BOUND, waypoint.running.shutdown())
            .await
            .unwrap()
    );
    println!("let go after {:?}", silent.elapsed());
}
