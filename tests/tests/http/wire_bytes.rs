//! Bytes on the wire and of header lines, in access logs that ask for them: they are what both far ends see.

use std::net::SocketAddr;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{Mesh, Recorder, Waypoint, Ztunnel, wire_bytes};

struct Scene {
    _mesh: Mesh,
    waypoint: Waypoint,
    recorder: Recorder,
    client: Ztunnel,
    to: SocketAddr,
}

async fn scene() -> Scene {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "web-1", "web", false);
    let recorder = Recorder::start(SocketAddr::new(mesh.pod_ip(1), 8080)).await;
    let to = mesh.service(1, "web");
    mesh.access_log_format(&wire_bytes::format());
    let waypoint = mesh.start().await;
    assert_eq!(waypoint.problems().await.trim(), "");
    let client = mesh.client(&waypoint, "default", "curl").await;
    Scene {
        _mesh: mesh,
        waypoint,
        recorder,
        client,
        to,
    }
}

#[tokio::test]
async fn the_log_has_what_the_far_ends_see() {
    let scene = scene().await;
    let log = || scene.waypoint.log();
    let differences = wire_bytes::play(&scene.client, scene.to, &scene.recorder, log).await;
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
async fn pipelined_requests_have_their_own() {
    let scene = scene().await;
    let mut stream = scene.client.tunnel(scene.to).await;
    let one = "GET /one HTTP/1.1\r\nhost: web\r\n\r\n";
    let two = "POST /two HTTP/1.1\r\nhost: web\r\ncontent-length: 3\r\n\r\nabc";
    stream
        .write_all(format!("{one}{two}").as_bytes())
        .await
        .unwrap();
    let mut answers = String::new();
    let mut buffer = [0; 4096];
    while answers.matches("\r\n\r\nok").count() < 2 {
        let n = stream.read(&mut buffer).await.unwrap();
        answers.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    let each = answers.len() / 2;
    for (path, sent) in [("/one", one.len()), ("/two", two.len())] {
        let line = scene.waypoint.until_logged(path).await;
        let values: Vec<_> = line.split('¦').collect();
        assert_eq!(values[2], sent.to_string(), "{line}");
        let got: usize = values[4].parse().unwrap();
        assert!(got.abs_diff(each) <= 1, "{line}");
    }
}

#[tokio::test]
async fn a_record_is_written_though_the_client_is_gone_and_none_is_counted_of_http2() {
    let scene = scene().await;
    let mut stream = scene.client.tunnel(scene.to).await;
    stream
        .write_all(b"GET /gone HTTP/1.1\r\nhost: web\r\n")
        .await
        .unwrap();
    stream.write_all(b"\r\n").await.unwrap();
    until("the request at the application", async || {
        (!scene.recorder.connections().concat().is_empty()).then_some(())
    })
    .await;
    drop(stream);
    let line = scene.waypoint.until_logged("/gone").await;
    assert!(line.starts_with("/gone¦10¦"), "{line}");
    let answer = scene.client.http2(scene.to).await.send(get("/http2")).await;
    assert_eq!(answer.status, StatusCode::OK);
    let line = scene.waypoint.until_logged("/http2").await;
    let values: Vec<_> = line.split('¦').collect();
    assert_eq!(values[1..5], ["-"; 4], "{line}");
    assert_eq!(values[7..], ["18", "40"], "{line}");
}
