//! Logs that nobody reads cost lines and nothing else: neither traffic, nor configuration, nor the end.

use std::fs::{self, File};
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::identity::Identity;
use waypoint_tests::pace::Pace;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::get;
use waypoint_tests::{Mesh, Program, Ztunnel};

const BINARY: &str = env!("CARGO_BIN_EXE_waypoint-under-test");
/// For one answer.
const SOON: Duration = Duration::from_secs(2);

/// Peers that don't speak TLS: each is a handshake that fails.
async fn strangers(program: &Program, count: usize) {
    for _ in 0..count {
        let mut tcp = TcpStream::connect(program.hbone).await.unwrap();
        let _ = tcp.write_all(b"hi\r\n\r\nhi\r\n").await;
        let mut rest = Vec::new();
        let _ = within("the end of a stranger", tcp.read_to_end(&mut rest)).await;
    }
}

#[tokio::test]
async fn full_pipes_stop_neither_traffic_nor_probes_nor_the_end() {
    let mesh = Mesh::alone().await;
    let (to, _) = mesh.http_service(1, "web").await;
    let all = ["--log", "debug"];
    let mut program = Program::start(&mesh, BINARY, "", &all, |command| {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    })
    .await;
    let client = program.client(&mesh, "curl").await;
    let mut connection = client.http1(to).await;
    let long = format!("/{}", "x".repeat(200));
    let mut ask = async || {
        let answer = connection.send(get(&long)).await;
        assert_eq!(answer.status, StatusCode::OK);
    };
    let pace = Pace::of(&mut ask).await;
    // More lines than both pipes hold.
    strangers(&program, 400).await;
    for _ in 0..400 {
        let started = Instant::now();
        ask().await;
        pace.assert(started.elapsed(), SOON, "an answer");
    }
    let fresh = program.client(&mesh, "curl").await;
    assert_eq!(fresh.get(to, "/").await.status, StatusCode::OK);
    assert_eq!(program.readiness().await, 200);
    mesh.manifest("broken.yaml", "apiVersion: v1\nkind: [\n");
    until("the refusal", async || {
        let (_, problems) = http_get(program.admin, "/problems").await;
        problems.contains("broken.yaml").then_some(())
    })
    .await;
    mesh.remove_manifest("broken.yaml");

    program.signal("INT");
    drop((fresh, connection, client));
    let status = program.ended().await;
    assert_eq!(status.code(), Some(0));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    program
        .child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut out)
        .unwrap();
    program
        .child
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut err)
        .unwrap();
    // Both were full: not all of it is there.
    let lines = |bytes: &[u8], part: &str| String::from_utf8_lossy(bytes).matches(part).count();
    let (requests, refused) = (
        lines(&out, "xxx HTTP"),
        lines(&err, "HBONE connection refused"),
    );
    assert!(
        (50..405).contains(&requests),
        "{requests} lines: {}",
        out.len()
    );
    assert!(
        (50..400).contains(&refused),
        "{refused} lines: {}",
        err.len()
    );
}

#[tokio::test]
async fn a_log_without_a_reader_costs_the_log() {
    let mesh = Mesh::alone().await;
    let (to, _) = mesh.http_service(1, "web").await;
    let mut program = Program::start(&mesh, BINARY, "", &[], |command| {
        // Both readers are gone before it starts.
        let gone = || std::io::pipe().unwrap().1;
        command.stdout(gone()).stderr(gone());
    })
    .await;
    strangers(&program, 3).await;
    mesh.manifest("broken.yaml", "apiVersion: v1\nkind: [\n");
    until("the refusal", async || {
        let (_, problems) = http_get(program.admin, "/problems").await;
        problems.contains("broken.yaml").then_some(())
    })
    .await;
    let client = program.client(&mesh, "curl").await;
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    assert_eq!(program.readiness().await, 200);
    // And the configuration goes on.
    mesh.remove_manifest("broken.yaml");
    let (other, _) = mesh.http_service(2, "other").await;
    until("the new service", async || {
        let (status, _) = client.connect_to(&other.to_string(), &[]).await.ok()?;
        (status == StatusCode::OK).then_some(())
    })
    .await;
    let lost = program.metric("waypoint_log_lines_lost_total", &[("reason", "unwritten")]);
    assert!(lost.await > 0.0);
    program.signal("INT");
    drop(client);
    let status = program.ended().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn it_starts_with_closed_streams() {
    let mesh = Mesh::alone().await;
    let (to, _) = mesh.http_service(1, "web").await;
    let program = Program::start(&mesh, BINARY, "exec 1>&- 2>&-", &[], |_| {}).await;
    let client = program.client(&mesh, "curl").await;
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_command_that_fails_says_so_whether_or_not_anybody_reads_it() {
    let gone = || std::io::pipe().unwrap().1;
    let failed = |stderr: Stdio| {
        let mut command = std::process::Command::new(BINARY);
        command.args(["run", "-f", "/no/such/folder", "--dev-ca", "/no/such/ca"]);
        command.stderr(stderr).output().unwrap()
    };
    let read = failed(Stdio::piped());
    assert_eq!(read.status.code(), Some(1));
    let text = String::from_utf8_lossy(&read.stderr);
    assert!(text.contains("/no/such/folder"), "{text}");
    assert_eq!(failed(gone().into()).status.code(), Some(1), "no panic");
}

#[tokio::test]
async fn peers_do_not_decide_how_much_is_logged() {
    const PEERS: usize = 300;
    let mesh = Mesh::alone().await;
    let (to, _) = mesh.http_service(1, "web").await;
    let log = mesh.folder().join("log");
    let file = File::create(&log).unwrap();
    let program = Program::start(&mesh, BINARY, "", &[], |command| {
        command.stderr(file);
    })
    .await;
    let lines = |part: &str| {
        let text = fs::read_to_string(&log).unwrap();
        text.lines().filter(|line| line.contains(part)).count()
    };
    // Who shows nothing isn't worth a line.
    strangers(&program, 50).await;
    // Who shows a certificate is, up to a number.
    let identity = Identity::istio("cluster.local", "default", "curl").unwrap();
    let day = Duration::from_secs(24 * 3600);
    let foreign = DevCa::ephemeral().unwrap().mint(&identity, day).unwrap();
    let (mut peers, via) = (JoinSet::new(), program.hbone);
    for n in 0..PEERS {
        let foreign = foreign.clone();
        peers.spawn(async move { Ztunnel::connect(via, &foreign).await.is_err() });
        if n % 16 == 15 {
            while let Some(refused) = peers.join_next().await {
                assert!(refused.unwrap());
            }
        }
    }
    while let Some(refused) = peers.join_next().await {
        assert!(refused.unwrap());
    }
    let held = until("lines that are held back", async || {
        let held = program.metric("waypoint_log_lines_lost_total", &[("reason", "rate")]);
        Some(held.await).filter(|held| *held > 0.0)
    })
    .await;
    let refused = program.metric(
        "waypoint_connections_refused_total",
        &[("reason", "unknown_issuer")],
    );
    assert_eq!(refused.await, PEERS as f64, "all are counted");
    // Once a second one gets through, and tells.
    until("the line that tells", async || {
        assert!(Ztunnel::connect(via, &foreign).await.is_err());
        (lines("held back") > 0).then_some(())
    })
    .await;
    let written = lines("HBONE connection refused");
    assert!(written < PEERS, "{written} lines, {held} held back");
    let client = program.client(&mesh, "curl").await;
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
}
