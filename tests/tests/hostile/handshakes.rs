//! Handshakes that stand half-way hold up nobody: what anybody can open without a certificate is never scarce.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use waypoint_proxy::run::Limits;
use waypoint_tests::pace::Pace;
use waypoint_tests::tls::client_hello;
use waypoint_tests::wait::{unless_silent, until};
use waypoint_tests::ztunnel::get;
use waypoint_tests::{Mesh, Program, Ztunnel};

const BINARY: &str = env!("CARGO_BIN_EXE_waypoint-under-test");
const REFUSED: &str = "waypoint_connections_refused_total";

async fn connect_from(source: Option<IpAddr>, via: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(via).await
}

/// Connections that say this and then nothing.
async fn half_way(
    source: Option<IpAddr>,
    via: SocketAddr,
    count: usize,
    says: &[u8],
) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut tcp = connect_from(source, via).await.unwrap();
        // One that had to go is closed.
        let _ = tcp.write_all(says).await;
        open.push(tcp);
    }
    open
}

/// How long a client takes that comes now, from its handshake to its first answer.
async fn fresh_client(mesh: &Mesh, via: SocketAddr, to: SocketAddr) -> Duration {
    let certificate = mesh.certificate("default", "curl");
    let started = Instant::now();
    let client = Ztunnel::connect(via, &certificate).await.unwrap();
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    started.elapsed()
}

/// The median of some, and the worst.
async fn fresh_clients(
    mesh: &Mesh,
    via: SocketAddr,
    to: SocketAddr,
    count: usize,
) -> (Duration, Duration) {
    let mut took = Vec::new();
    for _ in 0..count {
        took.push(fresh_client(mesh, via, to).await);
    }
    took.sort_unstable();
    (took[count / 2], took[count - 1])
}

/// Whether the waypoint has closed it by now.
async fn is_closed(tcp: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match unless_silent(Duration::from_millis(50), tcp.read(&mut buffer)).await {
            None => return false,
            Some(Ok(0) | Err(_)) => return true,
            Some(Ok(_)) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_client_does_not_wait_for_those_who_stand_half_way() {
    let mesh = Mesh::alone().await;
    let (to, _) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    let via = waypoint.address();
    let pace = Pace::of(async || fresh_client(&mesh, via, to).await).await;
    // The first bytes of a TLS record.
    let silent = half_way(None, via, 1100, &[22, 3, 1, 2]).await;
    let (median, worst) = fresh_clients(&mesh, via, to, 9).await;
    pace.assert(median, Duration::from_millis(500), "the median");
    pace.assert(worst, Duration::from_secs(2), "the worst");
    let active = waypoint.metric("waypoint_handshakes_active", &[]).await;
    assert!(active > 500.0, "{active} stand half-way all the while");
    // They didn't count as the mesh's own connections either.
    let labels = [("reason", "limit")];
    assert_eq!(waypoint.metric(REFUSED, &labels).await, 0.0);
    drop(silent);
    waypoint
        .until_metric("waypoint_handshakes_active", &[], 0.0)
        .await;
}

#[tokio::test]
async fn a_source_that_opens_too_many_loses_its_own_oldest() {
    let mesh = Mesh::alone().await;
    let (to, _) = mesh.http_service(1, "web").await;
    let limits = Limits {
        handshakes: 100,
        handshakes_per_source: 20,
        ..Limits::default()
    };
    let waypoint = mesh.start_with(|options| options.limits = limits).await;
    let via = waypoint.address();
    let hello = client_hello();
    let mut slow = half_way(Some(mesh.pod_ip(7)), via, 1, &hello[..5]).await;
    let mut many = half_way(Some(mesh.pod_ip(8)), via, 60, &hello).await;
    let labels = [("reason", "crowded_source")];
    waypoint.until_metric(REFUSED, &labels, 40.0).await;
    waypoint
        .until_metric("waypoint_handshakes_active", &[], 21.0)
        .await;
    // The others go on: one that is slow, one from the same source.
    slow[0].write_all(&hello[5..]).await.unwrap();
    let mut answer = [0; 5];
    slow[0].read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[0], 22, "a handshake's record");
    let certificate = mesh.certificate("default", "curl");
    let client = Ztunnel::connect_from(mesh.pod_ip(8), via, &certificate)
        .await
        .unwrap();
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    let mut closed = Vec::new();
    for tcp in &mut many {
        closed.push(is_closed(tcp).await);
    }
    assert!(closed[..40].iter().all(|closed| *closed), "the oldest go");
    assert!(closed[42..].iter().all(|closed| !closed), "and no others");
    assert_eq!(
        waypoint.metric("waypoint_connections_active", &[]).await,
        1.0
    );
}

#[tokio::test]
async fn from_many_sources_the_oldest_of_all_goes() {
    let mesh = Mesh::alone().await;
    let (to, _) = mesh.http_service(1, "web").await;
    let limits = Limits {
        handshakes: 20,
        handshakes_per_source: 10,
        ..Limits::default()
    };
    let waypoint = mesh.start_with(|options| options.limits = limits).await;
    let via = waypoint.address();
    let mut silent = Vec::new();
    for n in 0..40 {
        let source = mesh.pod_ip(100 + n);
        silent.extend(half_way(Some(source), via, 1, b"\x16").await);
    }
    let labels = [("reason", "crowded")];
    waypoint.until_metric(REFUSED, &labels, 20.0).await;
    assert!(is_closed(&mut silent[0]).await);
    assert!(!is_closed(&mut silent[39]).await);
    fresh_client(&mesh, via, to).await;
    until("the place of the fresh one", async || {
        (waypoint.metric(REFUSED, &labels).await == 21.0).then_some(())
    })
    .await;
}

/// The numbers of a real attack, against the program: prints what a fresh client takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long"]
async fn attack_half_way_handshakes() {
    let mesh = Mesh::alone().await;
    let (to, _) = mesh.http_service(1, "web").await;
    let program = Program::start(&mesh, BINARY, "", &[], |_| {}).await;
    let hello = client_hello();
    let pace = Pace::of(async || fresh_client(&mesh, program.hbone, to).await).await;
    let (median, worst) = fresh_clients(&mesh, program.hbone, to, 21).await;
    println!("half-way handshakes: none, fresh client p50 {median:?}, worst {worst:?}");
    for count in [1100, 3000, 16_500] {
        // One who is there already, all the while.
        let client = program.client(&mesh, "curl").await;
        let mut connection = client.http1(to).await;
        let there = tokio::spawn(async move {
            let mut took = Vec::new();
            for _ in 0..150 {
                let started = Instant::now();
                assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);
                took.push(started.elapsed());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            took.sort_unstable();
            (took[75], took[148])
        });
        let open = half_way(None, program.hbone, count, &hello).await;
        let (median, worst) = fresh_clients(&mesh, program.hbone, to, 21).await;
        let active = program.metric("waypoint_handshakes_active", &[]).await;
        let (p50, p99) = there.await.unwrap();
        println!(
            "half-way handshakes: {count} ({active} held), fresh client p50 {median:?}, worst {worst:?}; \
             one that is there p50 {p50:?}, p99 {p99:?}"
        );
        for (took, limit, what) in [
            (median, 200, "the median"),
            (worst, 1000, "the worst"),
            (p99, 500, "one that is there"),
        ] {
            pace.assert(
                took,
                Duration::from_millis(limit),
                &format!("{count}, {what}"),
            );
        }
        drop((open, client));
    }
    // Whoever stays silent is let go when its time is over, however many there were.
    let mut silent = half_way(None, program.hbone, 2000, &hello).await;
    until("their end", async || {
        let active = program.metric("waypoint_handshakes_active", &[]).await;
        (active == 0.0).then_some(())
    })
    .await;
    assert!(is_closed(&mut silent[1999]).await);
}
