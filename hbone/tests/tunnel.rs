//! Tunnels between a client and a server over real sockets.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::client::{self, ClientOptions, ConnectError};
use waypoint_hbone::http2::Http2Options;
use waypoint_hbone::server::ServerOptions;
use waypoint_hbone::tunnel::copy::{ByteStream, Copied, Socket, copy};
use waypoint_hbone::tunnel::stream::TunnelStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_come_back_both_ways_of_reading() {
    let ca = DevCa::ephemeral().unwrap();
    let server = Server::echo(tls(&ca, "server"), ServerOptions::default()).await;
    let options = ClientOptions::default();
    let connection = client::connect(&tls(&ca, "client"), server.address, &options)
        .await
        .unwrap();
    assert_eq!(connection.peer(), &identity("server"));

    let mut stream = open(&connection).await;
    assert_eq!(stream.server_identity(), Some(&identity("server")));
    stream.send_all(Bytes::from_static(b"one ")).await.unwrap();
    stream.write_all(b"two").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = String::new();
    within(stream.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "one two");

    // Far more than any window, both ways at once.
    let sent: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let expected = Bytes::from(sent);
    let (mut read, mut write) = tokio::io::split(open(&connection).await);
    let outgoing = expected.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&outgoing).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    within(read.read_to_end(&mut received)).await.unwrap();
    writer.await.unwrap();
    assert!(received == expected);
}

#[tokio::test]
async fn small_frames_go_on_together_up_to_the_end() {
    let (_server, mut streams, connection) = connected(ServerOptions::default()).await;
    let mut client = open(&connection).await;
    let mut server_side = streams.recv().await.unwrap();
    let sent: Vec<u8> = (0..60).collect();
    for byte in &sent {
        client
            .send_all(Bytes::copy_from_slice(&[*byte]))
            .await
            .unwrap();
    }
    client.send_all(Bytes::from(vec![7; 4096])).await.unwrap();
    client.finish().unwrap();
    // They have come once the end has.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let next = async |stream: &mut TunnelStream| {
        within(std::future::poll_fn(|cx| ByteStream::poll_data(stream, cx))).await
    };
    let together = next(&mut server_side).await.unwrap().unwrap();
    assert_eq!(together, sent);
    let large = next(&mut server_side).await.unwrap().unwrap();
    assert!(large.iter().all(|byte| *byte == 7));
    let mut left = 4096 - large.len();
    while left > 0 {
        left -= next(&mut server_side).await.unwrap().unwrap().len();
    }
    assert!(next(&mut server_side).await.is_none());
}

#[tokio::test]
async fn a_reset_behind_small_frames_is_told() {
    let (_server, mut streams, connection) = connected(ServerOptions::default()).await;
    for by_frames in [true, false] {
        let mut client = open(&connection).await;
        let mut server_side = streams.recv().await.unwrap();
        for _ in 0..3 {
            client.send_all(Bytes::from_static(b"x")).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.cancel();
        // All of it has come before anybody looks.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let error = loop {
            let read = if by_frames {
                let next = std::future::poll_fn(|cx| ByteStream::poll_data(&mut server_side, cx));
                within(next).await.expect("an error before the end").err()
            } else {
                within(server_side.read(&mut [0; 64])).await.err()
            };
            if let Some(error) = read {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn small_frames_are_one_read() {
    let (_server, mut streams, connection) = connected(ServerOptions::default()).await;
    let mut client = open(&connection).await;
    let mut server_side = streams.recv().await.unwrap();
    for _ in 0..60 {
        client.send_all(Bytes::from_static(b"x")).await.unwrap();
    }
    client.finish().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut buffer = [0; 64];
    assert_eq!(
        within(server_side.read(&mut buffer[..40])).await.unwrap(),
        40
    );
    assert_eq!(within(server_side.read(&mut buffer)).await.unwrap(), 20);
    assert_eq!(within(server_side.read(&mut buffer)).await.unwrap(), 0);
}

#[tokio::test]
async fn many_small_frames_are_read_in_turns() {
    let (_server, mut streams, connection) = connected(ServerOptions::default()).await;
    let mut client = open(&connection).await;
    let mut server_side = streams.recv().await.unwrap();
    for _ in 0..1000 {
        client.send_all(Bytes::from_static(b"x")).await.unwrap();
    }
    // They are there by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mut all, mut most) = (0, 0);
    while all < 1000 {
        let turn = std::future::poll_fn(|cx| {
            let mut turn = 0;
            while let Poll::Ready(data) = server_side.poll_data(cx) {
                turn += data.unwrap().unwrap().len();
            }
            match turn {
                0 => Poll::Pending,
                n => Poll::Ready(n),
            }
        });
        let turn = within(turn).await;
        (all, most) = (all + turn, most.max(turn));
        tokio::task::yield_now().await;
    }
    assert!((100..=128).contains(&most), "{most} at once");
}

#[tokio::test]
async fn quiet_tunnels_do_not_keep_the_connections_window() {
    const EACH: usize = 31 * 1024;
    let mut options = ServerOptions::default();
    options.http2.stream_window = 64 * 1024;
    options.http2.connection_window = 256 * 1024;
    let (_server, mut streams, connection) = connected(options).await;
    // All that comes is read, and each tunnel stays open with less than a step of its window to give back.
    let mut opened = Vec::new();
    for _ in 0..20 {
        let mut client = open(&connection).await;
        let mut server_side = streams.recv().await.unwrap();
        let sent = client.send_all(Bytes::from(vec![b'x'; EACH]));
        let mut received = vec![0; EACH];
        let both = async { tokio::join!(sent, server_side.read_exact(&mut received)) };
        let (sent, read) = within(both).await;
        sent.unwrap();
        read.unwrap();
        // It has to ask once more to learn that there is nothing.
        let more = tokio::time::timeout(Duration::from_millis(20), server_side.read_u8());
        assert!(more.await.is_err());
        opened.push((client, server_side));
    }
}

#[tokio::test]
async fn a_stalled_reader_stops_the_writer_and_nobody_else() {
    let ca = DevCa::ephemeral().unwrap();
    let http2 = Http2Options {
        stream_window: 128 * 1024,
        ..Http2Options::default()
    };
    let options = ServerOptions {
        http2,
        ..ServerOptions::default()
    };
    let (server, mut streams) = Server::manual(tls(&ca, "server"), options).await;
    let options = ClientOptions::default();
    let limit = 128 * 1024 + options.http2.max_send_buffer + 64 * 1024;
    let connection = client::connect(&tls(&ca, "client"), server.address, &options)
        .await
        .unwrap();
    let mut client = open(&connection).await;
    let mut stalled = streams.recv().await.unwrap();

    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let total = 4 * 1024 * 1024;
    let writer = tokio::spawn(async move {
        for _ in 0..total / 1024 {
            client.write_all(&[7; 1024]).await.unwrap();
            count.fetch_add(1024, Ordering::SeqCst);
        }
        client.shutdown().await.unwrap();
        client
    });
    // Reading without releasing is stalling as well.
    let mut read = within(stalled.data()).await.unwrap().unwrap().len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stopped_at = written.load(Ordering::SeqCst);
    assert!((128 * 1024..=limit).contains(&stopped_at), "{stopped_at}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(written.load(Ordering::SeqCst), stopped_at);

    // Another stream of the same connection goes on.
    let mut other = open(&connection).await;
    other.write_all(b"hello").await.unwrap();
    let mut served = streams.recv().await.unwrap();
    assert_eq!(within(served.data()).await.unwrap().unwrap(), "hello");

    stalled.release(read);
    while let Some(bytes) = within(stalled.data()).await {
        let n = bytes.unwrap().len();
        stalled.release(n);
        read += n;
    }
    assert_eq!(read, total);
    drop(within(writer).await.unwrap());
}

#[tokio::test]
async fn thousands_of_tiny_frames_do_not_end_the_connection() {
    let ca = DevCa::ephemeral().unwrap();
    let (server, mut streams) = Server::manual(tls(&ca, "server"), ServerOptions::default()).await;
    let connection = client::connect(
        &tls(&ca, "client"),
        server.address,
        &ClientOptions::default(),
    )
    .await
    .unwrap();
    let mut client = open(&connection).await;
    let mut slow = streams.recv().await.unwrap();
    for _ in 0..20_000 {
        client.write_all(b"x").await.unwrap();
    }
    client.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut all = Vec::new();
    within(slow.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all.len(), 20_000);
}

#[tokio::test]
async fn rejections_carry_status_and_headers_arrive() {
    let ca = DevCa::ephemeral().unwrap();
    let server = Server::start(tls(&ca, "server"), ServerOptions::default(), |request| {
        if request.authority() == "10.0.0.1:80" && request.headers()["baggage"] == "k=v" {
            let mut headers = HeaderMap::new();
            headers.insert("baggage", HeaderValue::from_static("answer"));
            tokio::spawn(echo(request.accept(headers).unwrap()));
        } else {
            request.reject(StatusCode::NOT_FOUND, HeaderMap::new());
        }
    })
    .await;
    let connection = client::connect(
        &tls(&ca, "client"),
        server.address,
        &ClientOptions::default(),
    )
    .await
    .unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("baggage", HeaderValue::from_static("k=v"));
    let stream = connection
        .open("10.0.0.1:80", headers.clone())
        .await
        .unwrap();
    assert_eq!(stream.response_headers().unwrap()["baggage"], "answer");
    let error = connection.open("10.0.0.1:81", headers).await.unwrap_err();
    let not_found = StatusCode::NOT_FOUND;
    assert!(
        matches!(error, ConnectError::Rejected { status, .. } if status == not_found),
        "{error}"
    );
    drop(stream);
    eventually("places are given back", || connection.active_streams() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_and_sockets_are_joined() {
    let ca = DevCa::ephemeral().unwrap();
    let backend = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend_address = backend.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = backend.accept().await.unwrap();
        let (mut read, mut write) = tcp.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    // last: tunnel → socket; middle: tunnel → tunnel.
    let last = Server::start(tls(&ca, "last"), ServerOptions::default(), move |request| {
        let mut tunnel = request.accept(HeaderMap::new()).unwrap();
        tokio::spawn(async move {
            let mut socket = Socket::new(
                tokio::net::TcpStream::connect(backend_address)
                    .await
                    .unwrap(),
            );
            copy(&mut tunnel, &mut socket, &Copied::default(), None)
                .await
                .unwrap();
        });
    })
    .await;
    let (middle_tls, hop) = (tls(&ca, "middle"), last.address);
    let copied = Arc::new(Copied::default());
    let count = copied.clone();
    let middle = Server::start(
        tls(&ca, "middle"),
        ServerOptions::default(),
        move |request| {
            let mut near = request.accept(HeaderMap::new()).unwrap();
            let (tls, count) = (middle_tls.clone(), count.clone());
            tokio::spawn(async move {
                let options = ClientOptions::default();
                let mut far =
                    client::connect_once(&tls, hop, "10.0.0.1:80", HeaderMap::new(), &options)
                        .await
                        .unwrap();
                copy(&mut near, &mut far, &count, None).await.unwrap();
            });
        },
    )
    .await;
    let options = ClientOptions::default();
    let stream = client::connect_once(
        &tls(&ca, "client"),
        middle.address,
        "10.0.0.1:80",
        HeaderMap::new(),
        &options,
    )
    .await
    .unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let sent = vec![42; 5_000_000];
    let expected = sent.clone();
    tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    within(read.read_to_end(&mut received)).await.unwrap();
    assert!(received == expected);
    assert_eq!(copied.forward.load(Ordering::Relaxed), 5_000_000);
    assert_eq!(copied.backward.load(Ordering::Relaxed), 5_000_000);
}
