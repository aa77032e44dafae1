//! The pool: when connections are shared, opened and let go.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use support::*;
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::client::{self, ClientOptions, ConnectError};
use waypoint_hbone::http2::Http2Options;
use waypoint_hbone::pool::{PoolOptions, TunnelPool};
use waypoint_hbone::server::ServerOptions;
use waypoint_hbone::tunnel::stream::TunnelStream;

const TO: &str = "10.0.0.1:80";

async fn open(pool: &TunnelPool, server: &Server) -> Result<TunnelStream, ConnectError> {
    within(pool.connect(server.address, TO, HeaderMap::new())).await
}

async fn open_many(pool: &TunnelPool, server: &Server, n: usize) -> Vec<TunnelStream> {
    let address = server.address;
    let tasks: Vec<_> = (0..n)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                within(pool.connect(address, TO, HeaderMap::new()))
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut streams = Vec::new();
    for task in tasks {
        streams.push(task.await.unwrap());
    }
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_share_connections_up_to_the_limit() {
    let ca = DevCa::ephemeral().unwrap();
    let server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let options = PoolOptions {
        max_streams_per_connection: 10,
        ..PoolOptions::default()
    };
    let pool = TunnelPool::new(tls(&ca, "client"), options);
    // All at once: dials are shared.
    let mut streams = open_many(&pool, &server, 35).await;
    assert_eq!((pool.connections(), server.accepted()), (4, 4));
    for stream in &mut streams {
        stream.send_all(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(within(stream.data()).await.unwrap().unwrap(), "x");
    }
    // Freed places are taken again.
    drop(streams);
    drop(open_many(&pool, &server, 35).await);
    assert_eq!(server.accepted(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_limit_is_respected() {
    let ca = DevCa::ephemeral().unwrap();
    let options = ServerOptions {
        max_concurrent_streams: 2,
        ..ServerOptions::default()
    };
    let server = Server::echo(tls(&ca, "server"), options).await;
    let pool = TunnelPool::new(tls(&ca, "client"), PoolOptions::default());
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(open(&pool, &server).await.unwrap());
    }
    assert_eq!(server.accepted(), 3);
    // In a burst, too, when nobody knows the limit yet.
    let fresh = TunnelPool::new(tls(&ca, "other"), PoolOptions::default());
    let streams = open_many(&fresh, &server, 6).await;
    assert!(server.accepted() <= 3 + 4, "{}", server.accepted());
    drop(streams);
}

/// Nobody may wait for a stream that h2 keeps back, for h2 doesn't say that it does.
#[tokio::test]
async fn a_stream_that_the_servers_limit_keeps_back_is_given_up() {
    let ca = DevCa::ephemeral().unwrap();
    let options = ServerOptions {
        max_concurrent_streams: 2,
        ..ServerOptions::default()
    };
    let server = Server::echo(tls(&ca, "server"), options).await;
    let connection = client::connect(
        &tls(&ca, "client"),
        server.address,
        &ClientOptions::default(),
    )
    .await
    .unwrap();
    let mut first = within(connection.open(TO, HeaderMap::new())).await.unwrap();
    first.finish().unwrap();
    assert!(within(first.data()).await.is_none());
    drop(first);
    assert_eq!(connection.max_streams(), 2);
    // All are asked for before the connection's task, on this thread, has a turn to open one.
    let mut opens: Vec<_> = (0..5)
        .map(|_| Box::pin(connection.open(TO, HeaderMap::new())))
        .collect();
    for open in &mut opens {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(open.as_mut().poll(&mut cx).is_pending());
    }
    let mut streams = Vec::new();
    let mut full = 0;
    for open in opens {
        match within(open).await {
            Ok(stream) => streams.push(stream),
            Err(ConnectError::Full { .. }) => full += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((streams.len(), full), (2, 3));
    // Those that were given up leave the connection usable.
    drop(streams);
    let mut stream = within(connection.open(TO, HeaderMap::new())).await.unwrap();
    stream.send_all(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(within(stream.data()).await.unwrap().unwrap(), "x");
}

#[tokio::test]
async fn callers_wait_when_all_connections_are_full() {
    let ca = DevCa::ephemeral().unwrap();
    let server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let options = PoolOptions {
        max_streams_per_connection: 1,
        max_connections_per_hop: 2,
        connect_timeout: Duration::from_millis(300),
        ..PoolOptions::default()
    };
    let pool = TunnelPool::new(tls(&ca, "client"), options);
    let first = open(&pool, &server).await.unwrap();
    let _second = open(&pool, &server).await.unwrap();
    let error = open(&pool, &server).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
    let waiting = tokio::spawn({
        let (pool, address) = (pool.clone(), server.address);
        async move { pool.connect(address, TO, HeaderMap::new()).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(first);
    within(waiting).await.unwrap().unwrap();
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_new_certificate_makes_new_connections() {
    let ca = DevCa::ephemeral().unwrap();
    let server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let client = tls(&ca, "before");
    let pool = TunnelPool::new(client.clone(), PoolOptions::default());
    let mut old = open(&pool, &server).await.unwrap();
    client.set_certificate(certificate(&ca, &identity("after")));
    let _new = open(&pool, &server).await.unwrap();
    let _shared = open(&pool, &server).await.unwrap();
    assert_eq!((server.accepted(), pool.connections()), (2, 1));
    // The old tunnel lives on, and its connection ends with it.
    old.send_all(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(within(old.data()).await.unwrap().unwrap(), "x");
    drop(old);
    let mut server = server;
    server.ended().await;
}

#[tokio::test]
async fn a_drained_connection_is_replaced() {
    let ca = DevCa::ephemeral().unwrap();
    let server_tls = tls(&ca, "server");
    let server = Server::echo(server_tls, ServerOptions::default()).await;
    let pool = TunnelPool::new(tls(&ca, "client"), PoolOptions::default());
    let mut old = open(&pool, &server).await.unwrap();
    server.drain();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The server says GOAWAY to each new connection as well: its last word is the error.
    let _ = open(&pool, &server).await;
    assert!(server.accepted() > 1);
    old.send_all(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(within(old.data()).await.unwrap().unwrap(), "x");
}

#[tokio::test]
async fn a_dead_idle_connection_costs_nothing() {
    let ca = DevCa::ephemeral().unwrap();
    let mut server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let pool = TunnelPool::new(tls(&ca, "client"), PoolOptions::default());
    for _ in 0..3 {
        drop(open(&pool, &server).await.unwrap());
    }
    assert_eq!(server.accepted(), 1);
    server.drain();
    server.ended().await;
    eventually("it's forgotten", || pool.connections() == 0).await;
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let ca = DevCa::ephemeral().unwrap();
    let mut server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let options = PoolOptions {
        idle_timeout: Duration::from_millis(200),
        ..PoolOptions::default()
    };
    let pool = TunnelPool::new(tls(&ca, "client"), options);
    let stream = open(&pool, &server).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(pool.connections(), 1);
    drop(stream);
    server.ended().await;
    assert_eq!(pool.connections(), 0);
    open(&pool, &server).await.unwrap();
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn failures_say_what_failed() {
    let ca = DevCa::ephemeral().unwrap();
    let options = PoolOptions {
        connect_timeout: Duration::from_millis(500),
        ..PoolOptions::default()
    };
    let pool = TunnelPool::new(tls(&ca, "client"), options);

    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let error = pool
        .connect(address, TO, HeaderMap::new())
        .await
        .unwrap_err();
    assert!(
        matches!(error, ConnectError::Tcp { .. }) && error.retry_safe(),
        "{error}"
    );

    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap();
    let error = pool
        .connect(address, TO, HeaderMap::new())
        .await
        .unwrap_err();
    assert!(
        matches!(error, ConnectError::Timeout { .. }) && error.retry_safe(),
        "{error}"
    );

    let stranger = DevCa::ephemeral().unwrap();
    let server = Server::echo(tls(&stranger, "server"), ServerOptions::default()).await;
    let error = open(&pool, &server).await.unwrap_err();
    assert_eq!(error.label(), "unknown_issuer", "{error}");

    let server = Server::start(tls(&ca, "server"), ServerOptions::default(), |request| {
        request.reject(StatusCode::FORBIDDEN, HeaderMap::new());
    })
    .await;
    let error = open(&pool, &server).await.unwrap_err();
    let forbidden = StatusCode::FORBIDDEN;
    assert!(
        matches!(error, ConnectError::Rejected { status, .. } if status == forbidden),
        "{error}"
    );
    assert!(!error.retry_safe());
    assert!(matches!(
        pool.connect(server.address, "no authority", HeaderMap::new())
            .await,
        Err(ConnectError::Authority(_))
    ));
}

#[tokio::test]
async fn a_slow_dial_holds_up_nobody() {
    let ca = DevCa::ephemeral().unwrap();
    let server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    // The first connection is taken and never answered; later ones go through.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, upstream) = (listener.local_addr().unwrap(), server.address);
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            if seen.fetch_add(1, Ordering::SeqCst) == 0 {
                kept.push(near);
                continue;
            }
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(upstream).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let options = PoolOptions {
        slow_dial: Duration::from_millis(100),
        ..PoolOptions::default()
    };
    let pool = TunnelPool::new(tls(&ca, "client"), options);
    let start = Instant::now();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.connect(address, TO, HeaderMap::new()).await.unwrap() })
        })
        .collect();
    let mut streams = Vec::new();
    for task in tasks {
        streams.push(within(task).await.unwrap());
    }
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

/// Packets vanish, and nothing is closed: whoever has a tunnel there learns of it, and whoever wants one gets it elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hop_that_falls_silent_is_left_within_the_bound() {
    let ca = DevCa::ephemeral().unwrap();
    let server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let cable = Cable::to(server.address).await;
    let http2 = Http2Options {
        keepalive_interval: Some(Duration::from_millis(200)),
        keepalive_timeout: Duration::from_millis(400),
        ..Http2Options::default()
    };
    let options = PoolOptions {
        http2,
        ..PoolOptions::default()
    };
    let pool = TunnelPool::new(tls(&ca, "client"), options);
    let connect = || pool.connect(cable.address, TO, HeaderMap::new());
    let mut open = within(connect()).await.unwrap();
    open.send_all(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(within(open.data()).await.unwrap().unwrap(), "x");
    cable.cut();
    let silent = Instant::now();
    // Bytes that can't leave are no sign of life.
    let _ = tokio::time::timeout(
        Duration::from_millis(100),
        open.send_all(vec![0; 8 << 20].into()),
    )
    .await;
    let (ended, asked) = tokio::join!(within(open.data()), within(connect()));
    assert!(ended.unwrap().is_err());
    let mut other = asked.unwrap();
    // A PING, its answer's time, and a new connection; far from `response_timeout`.
    assert!(
        silent.elapsed() < Duration::from_secs(3),
        "{:?}",
        silent.elapsed()
    );
    other.send_all(Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(within(other.data()).await.unwrap().unwrap(), "y");
    assert_eq!((server.accepted(), pool.connections()), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_callers_leave_nothing_behind() {
    let ca = DevCa::ephemeral().unwrap();
    let server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let options = PoolOptions {
        max_streams_per_connection: 4,
        max_connections_per_hop: 2,
        ..PoolOptions::default()
    };
    let pool = TunnelPool::new(tls(&ca, "client"), options);
    for round in 0..200_u64 {
        let address = server.address;
        let tasks: Vec<_> = (0..12)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(
                    async move { pool.connect(address, TO, HeaderMap::new()).await.map(drop) },
                )
            })
            .collect();
        tokio::time::sleep(Duration::from_micros(round * 7 % 900)).await;
        for task in &tasks {
            task.abort();
        }
    }
    // Every place is free again.
    let streams = open_many(&pool, &server, 8).await;
    assert!(pool.connections() <= 2);
    drop(streams);
}
