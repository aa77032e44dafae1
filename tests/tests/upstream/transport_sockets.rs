//! What stands between a connection and what is spoken on it: TLS for TCP streams and inside of HBONE, the PROXY protocol,
//! and which of several an endpoint's metadata chooses.

use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use envoy_types::pb::envoy::config::core::v3::{
    ProxyProtocolConfig, TransportSocket, proxy_protocol_config::Version,
};
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use http::StatusCode;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_tests::balancing::endpoints;
use waypoint_tests::tls_server::{Authority, Speech, TlsServer};
use waypoint_tests::upstream_tls::{
    change_one, changed, context, packed, socket, trusting, with_tls,
};
use waypoint_tests::wait::within;
use waypoint_tests::{App, ControlPlane, Mesh};

const NAME: &str = "api.example.test";

#[tokio::test]
async fn tcp_streams_go_through_tls_and_each_direction_ends_on_its_own() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_tcp_service(1, "db");
    let ca = Authority::new("others");
    let echo = Speech {
        echo: true,
        ..Speech::default()
    };
    let server = TlsServer::start(backend, &ca.issue(&[NAME]), echo).await;
    let istiod = ControlPlane::start(&mesh).await;
    let tls = context(NAME, trusting(ca.root(), &[NAME]));
    istiod.discovery.set(with_tls(&mesh, "db", &tls));
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    let (mut read, mut write) = tokio::io::split(client.tunnel(to).await);
    let sent = vec![b'z'; 1 << 20];
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut all = Vec::new();
    let (_, got) = tokio::join!(writing, within("the echo", read.read_to_end(&mut all)));
    got.unwrap();
    assert_eq!(all, sent);
    assert_eq!(server.greeted()[0].sni.as_deref(), Some(NAME));
    // Somebody else is not spoken to.
    server.show(&ca.issue(&["other.test"]), &Speech::default());
    let mut stream = client.tunnel(to).await;
    let _ = stream.write_all(b"hello").await;
    let mut nothing = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut nothing)).await;
    assert_eq!(nothing, b"");
}

#[tokio::test]
async fn tls_runs_inside_of_hbone() {
    let mesh = Mesh::new();
    mesh.access_log_format("%REQ(:PATH)% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n");
    let (to, _app, _ztunnel) = mesh.captured_service(1, "web").await;
    let istiod = ControlPlane::start(&mesh).await;
    let ca = Authority::new("others");
    let tls = context(NAME, trusting(ca.root(), &[NAME]));
    let inner = InternalUpstreamTransport {
        transport_socket: Some(socket(&tls)),
        ..InternalUpstreamTransport::default()
    };
    istiod.discovery.set(changed(&mesh, "web", |cluster| {
        cluster.transport_socket = Some(packed("internal_upstream", &inner));
    }));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    // The application speaks no TLS: the tunnel was there, and the handshake in it failed.
    let answer = client.get(to, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let line = waypoint.until_logged("/ ").await;
    assert!(line.contains("WRONG_VERSION_NUMBER"), "{line}");
}

/// A server that keeps what comes before HTTP or TLS, up to so many bytes.
async fn behind_a_head(
    address: SocketAddr,
    length: Option<usize>,
    server: Option<TlsServer>,
) -> Arc<Mutex<Vec<Vec<u8>>>> {
    let heads: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let kept = heads.clone();
    App::tcp(address, move |mut tcp: TcpStream| {
        let (kept, server) = (kept.clone(), server.clone());
        async move {
            let mut head = Vec::new();
            let is_whole = |head: &[u8]| match length {
                Some(length) => head.len() == length,
                None => head.ends_with(b"\r\n"),
            };
            while !is_whole(&head) {
                let Ok(byte) = tcp.read_u8().await else {
                    return;
                };
                head.push(byte);
            }
            kept.lock().push(head);
            match server {
                Some(server) => server.serve(tcp).await,
                None => answer(tcp).await,
            }
        }
    })
    .await;
    heads
}

async fn answer(mut tcp: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(1..) = tcp.read(&mut buffer).await {
        let _ = tcp
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
    }
}

fn proxy(version: Version, inner: Option<TransportSocket>) -> TransportSocket {
    let raw = envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer {};
    let transport = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig {
            version: version.into(),
            ..ProxyProtocolConfig::default()
        }),
        transport_socket: Some(inner.unwrap_or_else(|| packed("raw_buffer", &raw))),
        ..ProxyProtocolUpstreamTransport::default()
    };
    packed(
        "envoy.transport_sockets.upstream_proxy_protocol",
        &transport,
    )
}

#[tokio::test]
async fn the_proxy_protocol_tells_of_each_client() {
    let mesh = Mesh::new();
    let (first, one) = mesh.bare_service(1, "first");
    let (second, two) = mesh.bare_service(2, "second");
    let ca = Authority::new("others");
    let server = TlsServer::new(&ca.issue(&[NAME]), &Speech::default());
    let texts = behind_a_head(one, None, None).await;
    let binaries = behind_a_head(two, Some(28), Some(server.clone())).await;
    let tls = context(NAME, trusting(ca.root(), &[NAME]));
    let istiod = ControlPlane::start(&mesh).await;
    let mut resources = changed(&mesh, "first", |cluster| {
        cluster.transport_socket = Some(proxy(Version::V1, None));
    });
    change_one(&mut resources, "second", |cluster| {
        cluster.transport_socket = Some(proxy(Version::V2, Some(socket(&tls))));
    });
    istiod.discovery.set(resources);
    let (waypoint, client) = mesh.started_under(&istiod).await;
    let other = mesh.client(&waypoint, "default", "other").await;
    for to in [first, second] {
        for via in [&client, &client, &other] {
            assert_eq!(via.get(to, "/").await.status, StatusCode::OK);
        }
    }
    let texts = texts.lock().clone();
    for text in &texts {
        let text = String::from_utf8(text.clone()).unwrap();
        let of = format!(" {} ", first.ip());
        assert!(
            text.starts_with("PROXY TCP4 127.") && text.contains(&of),
            "{text}"
        );
        assert!(text.ends_with(&format!(" {}\r\n", first.port())), "{text}");
    }
    assert_ne!(
        texts.first(),
        texts.last(),
        "another client, another connection"
    );
    let binaries = binaries.lock().clone();
    for head in &binaries {
        assert_eq!(head[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        let SocketAddr::V4(to) = second else {
            panic!("{second}");
        };
        assert_eq!(head[20..24], to.ip().octets());
        assert_eq!(head[26..28], to.port().to_be_bytes());
    }
    assert!(server.greeted().len() >= 2);
}

fn matching(name: &str, pairs: &[(&str, &str)], socket: TransportSocket) -> TransportSocketMatch {
    TransportSocketMatch {
        name: name.into(),
        r#match: Some(texts(pairs)),
        transport_socket: Some(socket),
    }
}

fn texts(pairs: &[(&str, &str)]) -> Struct {
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.into())),
    };
    Struct {
        fields: pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), text(value)))
            .collect(),
    }
}

#[tokio::test]
async fn an_endpoints_metadata_chooses_among_sockets() {
    let mesh = Mesh::new();
    let (plain, _app) = mesh.http_service(1, "plain").await;
    let (sidecar, backend) = mesh.bare_service(2, "sidecar");
    let ca = Authority::new("others");
    let server = TlsServer::start(backend, &ca.issue(&[NAME]), Speech::default()).await;
    let tls = context("outbound_.80_._.sidecar", trusting(ca.root(), &[NAME]));
    let raw = envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer {};
    let both = |cluster: &mut Cluster| {
        cluster.transport_socket = None;
        cluster.transport_socket_matches = vec![
            matching("tlsMode-istio", &[("tlsMode", "istio")], socket(&tls)),
            matching("tlsMode-disabled", &[], packed("raw_buffer", &raw)),
        ];
    };
    let mut resources = mesh.resources();
    change_one(&mut resources, "plain", both);
    change_one(&mut resources, "sidecar", both);
    endpoints(&mut resources, "sidecar", |assignment| {
        for endpoint in assignment
            .endpoints
            .iter_mut()
            .flat_map(|l| &mut l.lb_endpoints)
        {
            let metadata = endpoint.metadata.get_or_insert_default();
            let of_match = "envoy.transport_socket_match".to_owned();
            metadata
                .filter_metadata
                .insert(of_match, texts(&[("tlsMode", "istio")]));
        }
    });
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources);
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    for to in [plain, sidecar] {
        assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    }
    assert_eq!(server.requests(), ["/"]);
}
