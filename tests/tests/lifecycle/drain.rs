//! The end of a waypoint: nobody who is there, or comes meanwhile, loses a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_proxy::run::DrainTimes;
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{Http2, get, request};
use waypoint_tests::{App, Mesh, Program, Waypoint, Ztunnel};

const BINARY: &str = env!("CARGO_BIN_EXE_waypoint-under-test");

/// As a pod drains.
pub(super) fn open_for(open: Duration) -> DrainTimes {
    DrainTimes {
        open,
        until_unused: false,
        finish: Duration::ZERO,
    }
}

pub(super) async fn start(mesh: &Mesh, drain: DrainTimes) -> Waypoint {
    mesh.start_with(|options| options.drain = drain).await
}

/// Waits until a request is at the backend.
async fn until_seen(app: &App) {
    until("the slow request", async || {
        (!app.seen().is_empty()).then_some(())
    })
    .await;
}

/// Whether the waypoint has said that it takes no more tunnels on this connection.
async fn is_told(client: &Ztunnel, to: SocketAddr) -> bool {
    match client.connect_to(&to.to_string(), &[]).await {
        Ok(_) => false,
        Err(error) => {
            assert!(error.is_go_away(), "{error}");
            assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR));
            true
        }
    }
}

#[tokio::test]
async fn the_end_waits_for_what_runs() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    let idle = client.http1(to).await;
    let mut busy = client.http1(to).await;
    let running = tokio::spawn(async move {
        busy.send(request(Method::GET, "/slow", &[("x-delay-ms", "2000")]))
            .await
    });
    until_seen(&app).await;
    let address = waypoint.address();
    let readiness = waypoint.running.readiness_addr;
    let ended = tokio::spawn(waypoint.running.shutdown());
    until("readiness that fails", async || {
        let (status, text) = http_get(readiness, "/healthz/ready").await;
        (status == 503 && text == "draining\n").then_some(())
    })
    .await;
    until("no new connections", async || {
        TcpStream::connect(address).await.err()
    })
    .await;
    let answer = running.await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("connection"), "close");
    assert!(
        within("the shutdown", ended).await.unwrap(),
        "all ended in time"
    );
    drop(idle);
}

#[tokio::test]
async fn the_end_does_not_wait_for_ever() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let waypoint = start(&mesh, DrainTimes::at_most(Duration::from_millis(600))).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let mut busy = client.http1(to).await;
    let running = tokio::spawn(async move {
        let slow = request(Method::GET, "/slow", &[("x-delay-ms", "120000")]);
        busy.start(slow).await.is_ok()
    });
    until_seen(&app).await;
    let clean = within("the shutdown", waypoint.running.shutdown()).await;
    assert!(!clean, "not all ended in time");
    running.abort();
}

#[tokio::test]
async fn whoever_comes_while_it_drains_is_served() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let waypoint = start(&mesh, open_for(Duration::from_secs(8))).await;
    let before = mesh.client(&waypoint, "default", "curl").await;
    let mut kept = before.http1(to).await;
    assert_eq!(kept.send(get("/")).await.header("connection"), "");

    waypoint.running.drain();
    let (status, _) = http_get(waypoint.running.readiness_addr, "/healthz/ready").await;
    assert_eq!(status, 503, "readiness fails at once");
    until("the goodbye to the old connection", async || {
        is_told(&before, to).await.then_some(())
    })
    .await;

    // Whoever doesn't know yet.
    let late = mesh.client(&waypoint, "default", "curl").await;
    let answer = late.get(to, "/late").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("connection"), "close");
    until("the goodbye to the late connection", async || {
        is_told(&late, to).await.then_some(())
    })
    .await;
    let later = mesh.client(&waypoint, "default", "curl").await;
    let http2 = later.http2(to).await;
    assert_eq!(http2.send(get("/later")).await.status, StatusCode::OK);

    // An idle connection is kept, for a request may be on its way.
    let answer = kept.send(get("/kept")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("connection"), "close");
    assert!(kept.start(get("/again")).await.is_err(), "it was the last");
    assert!(within("the shutdown", waypoint.running.shutdown()).await);
}

#[tokio::test]
async fn idle_connections_are_closed_at_the_end_and_no_earlier() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let open = Duration::from_millis(800);
    let waypoint = start(&mesh, open_for(open)).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    // One that was used, one that wasn't.
    let mut used = client.tunnel(to).await;
    used.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 4096];
    let n = used.read(&mut answer).await.unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    let mut unused = client.tunnel(to).await;

    let started = Instant::now();
    let ended = tokio::spawn(waypoint.running.shutdown());
    let end = async |stream: &mut HboneStream| {
        let mut rest = Vec::new();
        let _ = within(
            "the end of an idle connection",
            stream.read_to_end(&mut rest),
        )
        .await;
        started.elapsed()
    };
    for after in [end(&mut used).await, end(&mut unused).await] {
        assert!(after >= open, "{after:?}");
    }
    drop((used, unused, client));
    assert!(within("the shutdown", ended).await.unwrap());
}

#[tokio::test]
async fn an_open_http2_connection_is_told_of_the_end() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    let connection = client.http2(to).await;
    let running = connection.clone();
    let slow = tokio::spawn(async move {
        running
            .send(request(Method::GET, "/slow", &[("x-delay-ms", "500")]))
            .await
    });
    until_seen(&app).await;
    let ended = tokio::spawn(waypoint.running.shutdown());
    let answer = slow.await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("connection"), "", "HTTP/2 has no such header");
    assert!(within("the shutdown", ended).await.unwrap());
    assert!(connection.start(get("/late")).await.is_err());
}

#[tokio::test]
async fn it_may_stay_until_nobody_is_connected() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let times = DrainTimes {
        open: Duration::from_millis(200),
        until_unused: true,
        finish: Duration::ZERO,
    };
    let waypoint = start(&mesh, times).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let mut kept = client.http1(to).await;
    kept.send(get("/")).await;
    let ended = tokio::spawn(waypoint.running.shutdown());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!ended.is_finished(), "somebody is connected");
    assert_eq!(kept.send(get("/")).await.status, StatusCode::OK);
    drop((kept, client));
    assert!(within("the shutdown", ended).await.unwrap());
}

#[tokio::test]
async fn sigterm_to_the_program_leaves_it_open_for_a_while() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let seconds = ["--drain-seconds", "5"];
    let mut program = Program::start(&mesh, BINARY, "", &seconds, |_| {}).await;
    let client = program.client(&mesh, "curl").await;
    let mut kept = client.http1(to).await;
    assert_eq!(kept.send(get("/")).await.status, StatusCode::OK);
    let told = Instant::now();
    program.signal("TERM");
    until("readiness that fails", async || {
        (program.readiness().await == 503).then_some(())
    })
    .await;
    let answer = kept.send(get("/kept")).await;
    assert_eq!(answer.header("connection"), "close");
    // Whoever hasn't heard yet dials, again and again.
    let mut served = 0;
    while told.elapsed() < Duration::from_millis(1200) {
        let late = program.client(&mesh, "curl").await;
        assert_eq!(late.get(to, "/late").await.status, StatusCode::OK);
        served += 1;
    }
    assert!(served > 0);
    assert_eq!(app.seen().len(), served + 2);
    let status = program.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(
        told.elapsed() >= Duration::from_secs(5),
        "{:?}",
        told.elapsed()
    );
}

#[tokio::test]
async fn a_person_at_the_keyboard_does_not_wait() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let seconds = ["--drain-seconds", "600"];
    // Once with an idle client: it ends at once.
    let mut program = Program::start(&mesh, BINARY, "", &seconds, |_| {}).await;
    let client = program.client(&mesh, "curl").await;
    let mut idle = client.http1(to).await;
    idle.send(get("/")).await;
    program.signal("INT");
    let status = program.ended().await;
    assert_eq!(status.code(), Some(0));
    // Once with a request that goes on and on: the second signal ends it.
    for first in ["INT", "TERM"] {
        let mut program = Program::start(&mesh, BINARY, "", &seconds, |_| {}).await;
        let client = program.client(&mesh, "curl").await;
        let mut busy = client.http1(to).await;
        let slow = request(Method::GET, "/slow", &[("x-delay-ms", "600000")]);
        let running = tokio::spawn(async move { busy.start(slow).await.is_ok() });
        until("the slow request", async || {
            let active = program.metric("waypoint_connections_active", &[]).await;
            (active > 0.0).then_some(())
        })
        .await;
        program.signal(first);
        until("readiness that fails", async || {
            (program.readiness().await == 503).then_some(())
        })
        .await;
        program.signal("INT");
        let status = program.ended().await;
        assert_eq!(status.code(), Some(0));
        running.abort();
    }
}

#[tokio::test]
async fn a_tunnel_accepted_when_the_end_comes_still_gets_its_answer() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let waypoint = start(&mesh, open_for(Duration::ZERO)).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let (mut http1, http2) = (client.tunnel(to).await, client.tunnel(to).await);
    let ended = tokio::spawn(waypoint.running.shutdown());
    // The request is on its way while the waypoint begins to end.
    tokio::time::sleep(Duration::from_millis(50)).await;
    http1
        .write_all(b"GET /one HTTP/1.1\r\nhost: test\r\n\r\n")
        .await
        .unwrap();
    let second = tokio::spawn(async move { Http2::over(http2).await.send(get("/two")).await });
    let mut answer = String::new();
    let _ = within("an answer", http1.read_to_string(&mut answer)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    drop(http1);
    let answer = within("an HTTP/2 answer", second).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(within("the shutdown", ended).await.unwrap());
}

async fn echo(mut tcp: TcpStream) {
    let (mut read, mut write) = tcp.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

async fn say(stream: &mut HboneStream, word: &[u8; 5]) {
    stream.write_all(word).await.unwrap();
    let mut echo = [0; 5];
    within("an echo", stream.read_exact(&mut echo))
        .await
        .unwrap();
    assert_eq!(&echo, word);
}

/// Streams without an end of their own: they have the last time, then both ends are closed and they are written down.
#[tokio::test]
async fn websockets_and_tcp_streams_have_the_last_time() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (db, backend) = mesh.bare_tcp_service(2, "db");
    let closed = Arc::new(AtomicUsize::new(0));
    let counted = closed.clone();
    App::tcp(backend, move |tcp| {
        let counted = counted.clone();
        async move {
            echo(tcp).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let times = DrainTimes {
        open: Duration::from_millis(300),
        until_unused: false,
        finish: Duration::from_secs(3),
    };
    let waypoint = start(&mesh, times).await;
    let (address, log) = (
        waypoint.running.stats_addr,
        mesh.folder().join("access.log"),
    );
    let client = mesh.client(&waypoint, "default", "curl").await;
    let mut tcp = client.tunnel(db).await;
    say(&mut tcp, b"hello").await;
    let mut chat = client.tunnel(web).await;
    chat.write_all(
        b"GET /chat HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
    )
    .await
    .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the 101", chat.read_u8()).await.unwrap());
    }
    say(&mut chat, b"hello").await;

    let started = Instant::now();
    let ended = tokio::spawn(waypoint.running.shutdown());
    // Both go on, past the open phase.
    while started.elapsed() < Duration::from_millis(700) {
        say(&mut tcp, b"again").await;
        say(&mut chat, b"again").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(http_get(address, "/healthz/ready").await.0 == 503);
    for stream in [&mut tcp, &mut chat] {
        let mut rest = Vec::new();
        let end = within("the end", stream.read_to_end(&mut rest)).await;
        assert!(end.is_err(), "what is cut off doesn't look finished");
        assert!(started.elapsed() >= times.open + times.finish);
    }
    assert!(
        !within("the shutdown", ended).await.unwrap(),
        "they were cut off"
    );
    until("the end at the backend", async || {
        (closed.load(Ordering::Relaxed) == 1).then_some(())
    })
    .await;
    let log = std::fs::read_to_string(log).unwrap();
    let line = |part: &str| {
        log.lines()
            .find(|line| line.contains(part))
            .unwrap_or_default()
    };
    assert!(line("/chat").contains("waypoint_ended"), "{log}");
    assert!(line("db.default").contains("waypoint_ended"), "{log}");
}
