//! With few descriptors every part still has some: probes are answered, idle connections go before any that is needed.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::net::TcpStream;
use waypoint_tests::pace::Pace;
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{App, Mesh, Program, Ztunnel};

const BINARY: &str = env!("CARGO_BIN_EXE_waypoint-under-test");
const FEW: &str = "ulimit -n 200";
const SOON: Duration = Duration::from_secs(2);

async fn answers(program: &Program) {
    assert_eq!(within("a probe", program.readiness()).await, 200);
}

/// A probe that is answered as soon as one was before.
async fn probe(program: &Program, before: Pace) {
    let started = Instant::now();
    answers(program).await;
    before.assert(started.elapsed(), SOON, "a probe");
}

#[tokio::test]
async fn strangers_and_clients_leave_descriptors_for_probes_and_upstreams() {
    let mesh = Mesh::alone().await;
    let (to, _) = mesh.http_service(1, "web").await;
    let program = Program::start(&mesh, BINARY, FEW, &[], |_| {}).await;
    let pace = Pace::of(async || answers(&program).await).await;
    // Those who say nothing, on every port.
    let mut silent = Vec::new();
    for port in [
        program.hbone,
        program.readiness,
        program.stats,
        program.admin,
    ] {
        for _ in 0..150 {
            silent.push(TcpStream::connect(port).await.unwrap());
        }
    }
    probe(&program, pace).await;
    // As many clients as there may be, and a few more.
    let certificate = mesh.certificate("default", "curl");
    let mut clients = Vec::new();
    for _ in 0..60 {
        if let Ok(client) = Ztunnel::connect(program.hbone, &certificate).await {
            clients.push(client);
        }
    }
    assert!(
        (20..60).contains(&clients.len()),
        "{} clients",
        clients.len()
    );
    probe(&program, pace).await;
    for client in &clients {
        let answer = within("an answer", client.get(to, "/")).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    let refused = program.metric("waypoint_connections_refused_total", &[("reason", "limit")]);
    assert!(refused.await > 0.0);
    probe(&program, pace).await;
}

#[tokio::test]
async fn idle_connections_to_upstreams_go_when_others_need_their_descriptors() {
    let mesh = Mesh::alone().await;
    let (to, app) = mesh.http_service(1, "web").await;
    let program = Program::start(&mesh, BINARY, FEW, &[], |_| {}).await;
    let pace = Pace::of(async || answers(&program).await).await;
    let client = program.client(&mesh, "curl").await;
    // As many upstream connections as there is room for, and none is in use any more.
    let mut connections = Vec::new();
    for _ in 0..80 {
        connections.push(client.http1(to).await);
    }
    let mut requests = tokio::task::JoinSet::new();
    for mut connection in connections {
        requests.spawn(async move {
            let slow = request(Method::GET, "/", &[("x-delay-ms", "3000")]);
            connection.send(slow).await.status
        });
    }
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert!(app.connections() >= 60, "{}", app.connections());
    // Now clients come, who need what those hold.
    let certificate = mesh.certificate("default", "curl");
    let mut clients = Vec::new();
    for n in 0..30 {
        let client = Ztunnel::connect(program.hbone, &certificate).await;
        let client = client.unwrap_or_else(|error| panic!("client {n}: {error}"));
        assert_eq!(
            client.get(to, "/").await.status,
            StatusCode::OK,
            "client {n}"
        );
        clients.push(client);
    }
    until("idle connections that went", async || {
        let scarce = program
            .metric("waypoint_descriptors_scarce_total", &[])
            .await;
        (scarce > 0.0).then_some(())
    })
    .await;
    probe(&program, pace).await;
}

/// Each pod's ztunnel has a connection of its own, which stays open for an hour.
#[tokio::test]
async fn tunnels_to_more_pods_than_there_are_descriptors_leave_some_for_others() {
    const PODS: u8 = 150;
    let mesh = Mesh::alone().await;
    let certificate = mesh.certificate("default", "web");
    let mut pods = Vec::new();
    for n in 1..=PODS {
        mesh.describe_pod(n, &format!("web-{n}"), "web", true);
        let app = App::http(mesh.backend(n), "web").await;
        pods.push((app, PodZtunnel::start(mesh.pod_ip(n), &certificate).await));
    }
    let to = mesh.service(1, "web");
    let program = Program::start(&mesh, BINARY, FEW, &[], |_| {}).await;
    let pace = Pace::of(async || answers(&program).await).await;
    let client = program.client(&mesh, "curl").await;
    let reached = || pods.iter().filter(|(_, ztunnel)| ztunnel.connections() > 0);
    let mut refused = 0;
    while reached().count() < usize::from(PODS) - 10 {
        match client.get(to, "/").await.status {
            StatusCode::OK => {}
            StatusCode::SERVICE_UNAVAILABLE => refused += 1,
            other => panic!("{other}"),
        }
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", program.child.id()));
    let open = open.unwrap().count();
    // Of 200 upstreams may have those below 150.
    assert!(open <= 152, "{open} descriptors");
    assert!(refused < 5, "{refused} requests refused");
    probe(&program, pace).await;
    let other = program.client(&mesh, "other").await;
    assert_eq!(other.get(to, "/").await.status, StatusCode::OK);
    let scarce = program.metric("waypoint_descriptors_scarce_total", &[]);
    assert!(scarce.await > 0.0);
}

#[tokio::test]
async fn more_requests_than_descriptors_are_refused_one_by_one() {
    let mesh = Mesh::alone().await;
    let (to, _) = mesh.http_service(1, "web").await;
    let program = Program::start(&mesh, BINARY, FEW, &[], |_| {}).await;
    let pace = Pace::of(async || answers(&program).await).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(program.client(&mesh, "curl").await);
    }
    let mut connections = Vec::new();
    for n in 0..210 {
        connections.push(clients[n % 3].http1(to).await);
    }
    let mut requests = tokio::task::JoinSet::new();
    for mut connection in connections {
        requests.spawn(async move {
            let slow = request(Method::GET, "/", &[("x-delay-ms", "4000")]);
            connection.send(slow).await.status
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    probe(&program, pace).await;
    let (mut served, mut refused) = (0, 0);
    while let Some(status) = requests.join_next().await {
        match status.unwrap() {
            StatusCode::OK => served += 1,
            StatusCode::SERVICE_UNAVAILABLE => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert!(
        served >= 60 && refused > 0,
        "{served} served, {refused} refused"
    );
    // And then it is as before.
    assert_eq!(clients[0].get(to, "/").await.status, StatusCode::OK);
    probe(&program, pace).await;
    let mut again = clients[1].http1(to).await;
    assert_eq!(again.send(get("/")).await.status, StatusCode::OK);
}
