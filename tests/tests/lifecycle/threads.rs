//! A thread that nothing goes on without, and that doesn't go on: readiness says so, and then the process ends.

use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{Mesh, Program};

const BINARY: &str = env!("CARGO_BIN_EXE_waypoint-under-test");

/// Of the threads that all else depends on any will do; how the control thread tells of its panics is told where it is
/// (`proxy/src/run/control.rs`).
#[tokio::test]
async fn a_thread_that_panics_is_seen_and_the_process_drains_and_ends() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let panics = mesh.folder().join("panics");
    let log = mesh.folder().join("log");
    let arguments = ["--memory-limit", "4Gi"];
    let mut program = Program::start(&mesh, BINARY, "", &arguments, |command| {
        command
            .env("WAYPOINT_UNDER_TEST_PANICS", &panics)
            .stderr(std::fs::File::create(&log).unwrap());
    })
    .await;
    let client = program.client(&mesh, "curl").await;
    let mut connection = client.http1(to).await;
    assert_eq!(connection.send(get("/before")).await.status, StatusCode::OK);

    std::fs::write(&panics, "").unwrap();
    let unready = until("readiness", async || {
        let (status, reason) = http_get(program.readiness, "/healthz/ready").await;
        (status != 200).then_some((status, reason))
    })
    .await;
    assert_eq!(unready.0, 503, "{}", unready.1);
    // While it drains, whoever is there is served.
    assert_eq!(connection.send(get("/after")).await.status, StatusCode::OK);
    drop((connection, client));
    assert_eq!(program.ended().await.code(), Some(1));
    let log = std::fs::read_to_string(log).unwrap();
    assert!(
        log.contains("the overload manager: as the story wants it"),
        "{log}"
    );
}

/// The file of CRLs becomes one that opening never ends for, as on a network disk whose server is gone.
#[tokio::test]
#[ignore = "takes over two minutes: as long as reading a large mesh may take"]
async fn attack_a_control_thread_that_hangs_is_seen_and_ends_the_process() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (crl, fifo) = (mesh.folder().join("crl.pem"), mesh.folder().join("fifo"));
    let day = Duration::from_secs(24 * 3600);
    let now = SystemTime::now();
    std::fs::write(&crl, mesh.ca.revoke(&[], now - day, now + day).unwrap()).unwrap();
    let arguments = ["--crl", crl.to_str().unwrap()];
    let mut program = Program::start(&mesh, BINARY, "", &arguments, |_| {}).await;
    let client = program.client(&mesh, "curl").await;
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    std::fs::rename(&fifo, &crl).unwrap();

    let hung = Instant::now();
    let mut unready = None;
    while program.child.try_wait().unwrap().is_none() {
        assert!(hung.elapsed() < Duration::from_secs(150), "it doesn't end");
        if unready.is_none() {
            let (status, reason) = http_get(program.readiness, "/healthz/ready").await;
            if status == 503 {
                assert_eq!(reason, "the control thread is stuck\n");
                unready = Some(hung.elapsed());
                // Traffic doesn't depend on it.
                assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
            }
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let (unready, ended) = (unready.unwrap(), hung.elapsed());
    println!("control thread hung: unready after {unready:?}, ended after {ended:?}");
    assert!(unready < Duration::from_secs(45) && ended > Duration::from_secs(100));
    assert_eq!(program.ended().await.code(), Some(1));
}
