//! How tunnels end: by either side, by a reset, with their connection, or by silence.
#![allow(clippy::unwrap_used)]

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::client::{self, ClientOptions};
use waypoint_hbone::http2::Http2Options;
use waypoint_hbone::server::{ConnectionEnd, ServerOptions};
use waypoint_hbone::tunnel::copy::{Copied, CopyError, Side, Socket, copy};

#[tokio::test]
async fn either_side_may_end_first() {
    let (_server, mut streams, connection) = connected(ServerOptions::default()).await;

    let mut client = open(&connection).await;
    let mut server_side = streams.recv().await.unwrap();
    client.finish().unwrap();
    assert!(within(server_side.data()).await.is_none());
    server_side
        .send_all(Bytes::from_static(b"still here"))
        .await
        .unwrap();
    server_side.finish().unwrap();
    let mut all = String::new();
    within(client.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "still here");
    assert!(client.is_end());

    let mut client = open(&connection).await;
    let mut server_side = streams.recv().await.unwrap();
    server_side.finish().unwrap();
    assert!(within(client.data()).await.is_none());
    client.write_all(b"me too").await.unwrap();
    client.shutdown().await.unwrap();
    all.clear();
    within(server_side.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "me too");
}

#[tokio::test]
async fn a_reset_is_seen_while_the_other_end_takes_nothing() {
    let (_server, mut streams, connection) = connected(ServerOptions::default()).await;
    let mut client = open(&connection).await;
    let mut server_side = streams.recv().await.unwrap();
    // Nobody reads at the other end.
    let (near, _far) = tokio::io::duplex(64);
    let copied = Arc::new(Copied::default());
    let seen = copied.clone();
    let copying =
        tokio::spawn(
            async move { copy(&mut server_side, &mut Socket::new(near), &seen, None).await },
        );
    client.send_all(vec![b'x'; 10_000].into()).await.unwrap();
    while copied.forward.load(Ordering::Relaxed) < 64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.cancel();
    let ended = within(copying).await.unwrap();
    assert!(matches!(ended, Err(CopyError::Stream(Side::First, _))));
}

#[tokio::test]
async fn a_reset_is_seen_as_one() {
    let ca = DevCa::ephemeral().unwrap();
    let (server, mut streams) = Server::manual(tls(&ca, "server"), ServerOptions::default()).await;
    let connection = client::connect(
        &tls(&ca, "client"),
        server.address,
        &ClientOptions::default(),
    )
    .await
    .unwrap();

    // Dropped without an end, while the client reads.
    let mut client = open(&connection).await;
    let mut server_side = streams.recv().await.unwrap();
    server_side
        .send_all(Bytes::from_static(b"half"))
        .await
        .unwrap();
    assert_eq!(within(client.data()).await.unwrap().unwrap(), "half");
    drop(server_side);
    let error = within(client.data()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let error = client.write_all(b"more").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    // The client has ended its direction and only waits.
    let mut client = open(&connection).await;
    let mut server_side = streams.recv().await.unwrap();
    client.finish().unwrap();
    assert!(within(server_side.data()).await.is_none());
    client.cancel();
    let error = within(std::future::poll_fn(|cx| server_side.poll_reset(cx))).await;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_killed_connection_fails_its_streams() {
    let ca = DevCa::ephemeral().unwrap();
    let (server, mut streams) = Server::manual(tls(&ca, "server"), ServerOptions::default()).await;
    // A proxy between them that can be killed.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = server.address;
    let proxy = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(upstream).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    let connection = client::connect(&tls(&ca, "client"), address, &ClientOptions::default())
        .await
        .unwrap();
    let mut client = open(&connection).await;
    let mut server_side = streams.recv().await.unwrap();
    proxy.abort();
    assert!(within(client.data()).await.unwrap().is_err());
    assert!(within(server_side.data()).await.unwrap().is_err());
    eventually("the connection is known to be dead", || {
        !connection.is_usable()
    })
    .await;
}

#[tokio::test]
async fn draining_lets_streams_finish() {
    let ca = DevCa::ephemeral().unwrap();
    let mut server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let connection = client::connect(
        &tls(&ca, "client"),
        server.address,
        &ClientOptions::default(),
    )
    .await
    .unwrap();
    let mut stream = open(&connection).await;
    server.drain();
    eventually("GOAWAY", || !connection.is_usable()).await;
    assert!(
        connection
            .open("10.0.0.1:80", HeaderMap::new())
            .await
            .is_err()
    );
    stream.write_all(b"unhurried").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = String::new();
    within(stream.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "unhurried");
    drop(stream);
    let end = server.ended().await;
    assert!(matches!(end, ConnectionEnd::Closed), "{end:?}");
}

#[tokio::test]
async fn a_silent_peer_is_noticed() {
    let ca = DevCa::ephemeral().unwrap();
    let http2 = Http2Options {
        keepalive_interval: Some(Duration::from_millis(50)),
        keepalive_timeout: Duration::from_millis(200),
        ..Http2Options::default()
    };
    let options = ServerOptions {
        http2: http2.clone(),
        ..ServerOptions::default()
    };
    let mut server = Server::echo(tls(&ca, "server"), options).await;
    let cable = Cable::to(server.address).await;
    let options = ClientOptions {
        http2,
        ..ClientOptions::default()
    };
    let connection = client::connect(&tls(&ca, "client"), cable.address, &options)
        .await
        .unwrap();
    let mut stream = open(&connection).await;
    // PINGs are answered: an idle tunnel lives on.
    tokio::time::sleep(Duration::from_millis(500)).await;
    stream.write_all(b"alive").await.unwrap();
    assert_eq!(within(stream.data()).await.unwrap().unwrap(), "alive");
    cable.cut();
    assert!(within(stream.data()).await.unwrap().is_err());
    assert!(matches!(server.ended().await, ConnectionEnd::Silent));
}

#[tokio::test]
async fn the_last_byte_counts_and_not_the_last_look() {
    let ca = DevCa::ephemeral().unwrap();
    let server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let cable = Cable::to(server.address).await;
    let options = ClientOptions {
        http2: Http2Options {
            keepalive_interval: Some(Duration::from_secs(1)),
            keepalive_timeout: Duration::from_millis(500),
            ..Http2Options::default()
        },
        ..ClientOptions::default()
    };
    let connection = client::connect(&tls(&ca, "client"), cable.address, &options)
        .await
        .unwrap();
    let mut stream = open(&connection).await;
    // The peer has just been heard when it falls silent.
    cable.cut();
    let silent = Instant::now();
    assert!(within(stream.data()).await.unwrap().is_err());
    let noticed = silent.elapsed();
    assert!(noticed >= Duration::from_millis(1400), "{noticed:?}");
    assert!(noticed < Duration::from_millis(2200), "{noticed:?}");
}
