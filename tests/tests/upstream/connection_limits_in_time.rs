//! Time limits of connections, not of requests: how long one may take to be made, how long a TCP stream may be silent, and
//! how soon a silent peer is asked. What standalone manifests don't say, a scripted istiod does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::google::protobuf::Duration as DurationProto;
use http::StatusCode;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::get;
use waypoint_tests::{App, ControlPlane, Mesh};

fn proto(limit: Duration) -> Option<DurationProto> {
    Some(DurationProto {
        seconds: limit.as_secs() as i64,
        nanos: limit.subsec_nanos() as i32,
    })
}

/// The mesh's resources, with another limit for making connections to services.
fn connecting_within(mesh: &Mesh, limit: Duration) -> Vec<Resource> {
    let mut resources = mesh.resources();
    for resource in &mut resources {
        if resource.kind == ResourceType::Cluster && resource.name.starts_with("inbound-vip|") {
            let mut cluster = Cluster::decode(resource.body.clone()).unwrap();
            cluster.connect_timeout = proto(limit);
            resource.body = cluster.encode_to_vec().into();
        }
    }
    resources
}

/// The mesh's resources, with another limit for silent TCP streams.
fn silent_for(mesh: &Mesh, limit: Duration) -> Vec<Resource> {
    let mut resources = mesh.resources();
    for resource in &mut resources {
        if resource.kind != ResourceType::Listener || resource.name != "main_internal" {
            continue;
        }
        let mut listener = Listener::decode(resource.body.clone()).unwrap();
        let filters = listener
            .filter_chains
            .iter_mut()
            .flat_map(|c| &mut c.filters);
        let mut changed = 0;
        for filter in filters.filter(|f| f.name == "envoy.filters.network.tcp_proxy") {
            if let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type {
                let mut proxy = TcpProxy::decode(&*any.value).unwrap();
                proxy.idle_timeout = proto(limit);
                any.value = proxy.encode_to_vec();
                changed += 1;
            }
        }
        assert!(changed > 0);
        resource.body = listener.encode_to_vec().into();
    }
    resources
}

#[tokio::test]
async fn a_connection_that_is_not_made_in_time_is_given_up() {
    const LIMIT: Duration = Duration::from_millis(600);
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    // Its queue is full: the kernel lets further handshakes wait.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(backend).unwrap();
    let full = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(tcp)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(backend)).await
    {
        waiting.push(tcp);
    }
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(connecting_within(&mesh, LIMIT));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    let begun = Instant::now();
    let answer = client.request(to, get("/slow-to-connect")).await;
    let took = begun.elapsed();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    // One attempt, and istiod's two retries; each would have ten seconds by istiod's own limit.
    assert!(took >= LIMIT, "{took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    let line = waypoint.until_logged("/slow-to-connect").await;
    assert!(line.contains(" URX,UF "), "{line}");
    drop(full);
}

#[tokio::test]
async fn a_tcp_stream_is_silent_from_its_last_byte_in_either_direction() {
    const LIMIT: Duration = Duration::from_millis(1500);
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_tcp_service(1, "db");
    App::tcp(backend, |mut tcp| async move {
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(silent_for(&mesh, LIMIT));
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    let mut tunnel = client.tunnel(to).await;
    // Longer than the limit all in all, never silent for that long.
    let mut byte = [0];
    for _ in 0..8 {
        tunnel.write_all(b"x").await.unwrap();
        within("the echo", tunnel.read_exact(&mut byte))
            .await
            .unwrap();
        tokio::time::sleep(LIMIT / 4).await;
    }
    let silent = Instant::now();
    let end = within("the end", tunnel.read(&mut byte)).await;
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    let took = silent.elapsed() + LIMIT / 4;
    assert!(took >= LIMIT - Duration::from_millis(50), "{took:?}");
}

/// Seconds until the kernel asks a silent peer on a connection to this address; `None`: it won't. As `/proc/net/tcp` tells it.
fn asked_in(peer: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(peer) = peer else {
        panic!("{peer}");
    };
    let address = u32::from_le_bytes(peer.ip().octets());
    let remote = format!("{address:08X}:{:04X}", peer.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[2] == remote && row[3] == "01");
    // The kind of timer (2: keepalive) and when it rings, in hundredths of seconds.
    let (kind, when) = row.expect("a connection")[5].split_once(':').unwrap();
    (kind == "02").then(|| u64::from_str_radix(when, 16).unwrap() / 100)
}

#[tokio::test]
async fn silent_peers_are_asked_as_often_as_a_rule_says() {
    for (settings, seconds) in [
        ("{time: 900s, interval: 9s, probes: 3}", 890..901),
        // Linux's own time.
        ("{interval: 9s}", 7190..7201),
    ] {
        let mesh = Mesh::new();
        let (to, _app) = mesh.http_service(1, "web").await;
        mesh.manifest(
            "rule.yaml",
            &format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: default}}\n\
                 spec: {{host: web, trafficPolicy: {{connectionPool: {{tcp: {{tcpKeepalive: {settings}}}}}}}}}\n"
            ),
        );
        let (_waypoint, client) = mesh.started().await;
        assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
        // Until what was sent is acknowledged it is the retransmission's timer.
        let asked = until("the keepalive's timer", async || asked_in(mesh.backend(1))).await;
        assert!(seconds.contains(&asked), "{settings}: {asked} s");
    }
}
