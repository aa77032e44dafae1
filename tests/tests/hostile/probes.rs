//! Probes and scrapes are answered, whatever strangers do on their ports.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_tests::pace::Pace;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::within;
use waypoint_tests::{Mesh, Waypoint};

/// A kubelet waits for a second.
const SOON: Duration = Duration::from_secs(2);

async fn strangers(at: SocketAddr, count: usize, says: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut tcp = TcpStream::connect(at).await.unwrap();
        let _ = tcp.write_all(says).await;
        open.push(tcp);
    }
    open
}

/// How long the slowest of the ports' answers takes.
async fn probe(waypoint: &Waypoint) -> Duration {
    let mut slowest = Duration::ZERO;
    let running = &waypoint.running;
    for (port, path) in [
        (running.readiness_addr, "/healthz/ready"),
        (running.stats_addr, "/healthz/ready"),
        (running.stats_addr, "/stats/prometheus"),
        (running.admin_addr, "/ready"),
    ] {
        let started = Instant::now();
        let (status, _) = within("a probe", http_get(port, path)).await;
        assert_eq!(status, 200, "{path}");
        slowest = slowest.max(started.elapsed());
    }
    slowest
}

#[tokio::test]
async fn silent_connections_do_not_keep_a_probe_waiting() {
    let mesh = Mesh::alone().await;
    let (_, _) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    waypoint.until_ready().await;
    let pace = Pace::of(async || probe(&waypoint).await).await;
    let mut open = Vec::new();
    let running = &waypoint.running;
    for port in [
        running.readiness_addr,
        running.stats_addr,
        running.admin_addr,
    ] {
        open.extend(strangers(port, 150, b"").await);
        open.extend(strangers(port, 150, b"GET /healthz/ready HTTP/1.1\r\nhost:").await);
    }
    pace.assert(probe(&waypoint).await, SOON, "probes");
    let let_go = "waypoint_plain_connections_let_go_total";
    for port in ["readiness", "stats", "admin"] {
        let count = waypoint.metric(let_go, &[("port", port)]).await;
        assert!(count > 150.0, "{port}: {count}");
    }
    // Whoever is left is let go for its silence, with or without a crowd.
    let mut last = open.pop().unwrap();
    let mut rest = Vec::new();
    let _ = within("the end of a silent one", last.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn answers_that_nobody_reads_do_not_keep_a_probe_waiting() {
    let mesh = Mesh::alone().await;
    let (_, _) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    waypoint.until_ready().await;
    let pace = Pace::of(async || probe(&waypoint).await).await;
    let many = b"GET /stats/prometheus HTTP/1.1\r\nhost: x\r\n\r\n".repeat(200);
    let _open = strangers(waypoint.running.stats_addr, 200, &many).await;
    pace.assert(probe(&waypoint).await, SOON, "probes");
}

#[tokio::test]
async fn a_scraper_keeps_its_connection_while_strangers_come_and_go() {
    let mesh = Mesh::alone().await;
    let waypoint = mesh.start().await;
    waypoint.until_ready().await;
    let port = waypoint.running.readiness_addr;
    let mut kubelet = TcpStream::connect(port).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..12 {
        kubelet
            .write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 1024];
        let n = within("an answer", kubelet.read(&mut answer))
            .await
            .unwrap();
        assert!(
            answer[..n].starts_with(b"HTTP/1.1 200"),
            "on the same connection"
        );
        // Far fewer than there are places, again and again.
        open.extend(strangers(port, 20, b"").await);
    }
}

/// The numbers of a real attack: strangers who come back at once whenever they are let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long"]
async fn attack_plain_ports() {
    let mesh = Mesh::alone().await;
    let waypoint = mesh.start().await;
    waypoint.until_ready().await;
    let port = waypoint.running.readiness_addr;
    let strangers: Vec<_> = (0..300)
        .map(|_| {
            tokio::spawn(async move {
                while let Ok(mut tcp) = TcpStream::connect(port).await {
                    let mut rest = Vec::new();
                    let _ = tcp.read_to_end(&mut rest).await;
                }
            })
        })
        .collect();
    let mut took = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        let answer = tokio::time::timeout(SOON, async {
            // A connection of its own each time, as a kubelet has.
            let mut tcp = TcpStream::connect(port).await?;
            tcp.write_all(b"GET /healthz/ready HTTP/1.0\r\nhost: x\r\n\r\n")
                .await?;
            let mut answer = String::new();
            tcp.read_to_string(&mut answer).await.map(|_| answer)
        });
        let answer = answer.await.expect("in time").unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
        took.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    took.sort_unstable();
    println!(
        "plain ports: 300 strangers, probe p50 {:?}, worst {:?}",
        took[25], took[49]
    );
    strangers.iter().for_each(tokio::task::JoinHandle::abort);
}
