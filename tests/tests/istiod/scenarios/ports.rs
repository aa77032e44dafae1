//! Ports of every protocol, told by name, by `appProtocol`, or by their first bytes; GRPCRoute, TCPRoute, TLSRoute.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use tokio::net::TcpStream;
use waypoint_tests::App;
use waypoint_tests::scenario::Scenario;
use waypoint_tests::ztunnel::{End, Ztunnel, get, request};

fn multi(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 43, 50, 1], port))
}

async fn echo(mut tcp: TcpStream) {
    let (mut read, mut write) = tcp.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn ports() {
    let scenario = Scenario::start("ports").await;
    for version in ["reviews-v1", "reviews-v2"] {
        for port in [9000, 3306, 8443, 8444] {
            App::tcp(scenario.pod_address(version, port), echo).await;
        }
    }
    scenario.pod.until_ready().await;
    scenario.until_refused(&[]).await;
    scenario.istiod.until_synced().await;
    let client = scenario.client("curl").await;
    http_ports(&scenario, &client).await;
    grpc_route(&scenario, &client).await;
    tcp_ports(&scenario, &client).await;
    let (status, _) = client.connect_to("10.43.50.1:53", &[]).await.unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND, "UDP");
}

/// Applications on the same port of both pods behind the service.
async fn apps(scenario: &Scenario, port: u16) -> [App; 2] {
    let at = |pod: &str| scenario.pod_address(pod, port);
    [
        App::http(at("reviews-v1"), "multi").await,
        App::http(at("reviews-v2"), "multi").await,
    ]
}

fn seen(apps: &[App; 2]) -> Vec<waypoint_tests::Seen> {
    apps.iter().flat_map(App::seen).collect()
}

async fn http_ports(scenario: &Scenario, client: &Ztunnel) {
    // HTTP/2 upstream by `appProtocol`, whatever the client speaks.
    for port in [8081, 8083] {
        let apps = apps(scenario, port).await;
        let h1 = client.get(multi(port), "/one").await;
        let h2 = client.http2(multi(port)).await.send(get("/two")).await;
        assert_eq!((h1.status, h2.status), (StatusCode::OK, StatusCode::OK));
        let seen = seen(&apps);
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|s| s.version == http::Version::HTTP_2));
    }
    // A websocket.
    apps(scenario, 8082).await;
    let upgrade = "GET /chat HTTP/1.1\r\nhost: ws\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    let (answer, end) = client.exchange(multi(8082), upgrade.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert_eq!(end, End::Quiet);
    // No protocol declared: what the client speaks.
    let unnamed = apps(scenario, 9999).await;
    client.get(multi(9999), "/one").await;
    client.http2(multi(9999)).await.send(get("/two")).await;
    let mut versions: Vec<_> = seen(&unnamed)
        .iter()
        .map(|s| (s.target.clone(), s.version))
        .collect();
    versions.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(versions[0].1, http::Version::HTTP_11);
    assert_eq!(versions[1].1, http::Version::HTTP_2);
    let opened = [("destination_service", "multi.default.svc.cluster.local")];
    let before = scenario
        .pod
        .metric("istio_tcp_connections_opened_total", &opened)
        .await;
    assert_eq!(before, 0.0);
    // Neither HTTP/1 nor HTTP/2: the application sees the bytes, and says what it thinks of them.
    let (answer, _) = client
        .exchange(multi(9999), b"\x16\x03\x01 no HTTP\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        !answer.contains("istio-envoy"),
        "from the application: {answer}"
    );
    scenario
        .until_metric("istio_tcp_connections_opened_total", &opened, 1.0)
        .await;
}

async fn grpc_route(scenario: &Scenario, client: &Ztunnel) {
    let apps = apps(scenario, 7070).await;
    let connection = client.http2(multi(7070)).await;
    let call = |path: &str, version: &str| {
        let headers = [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("x-v", version),
            ("x-trailers", "1"),
        ];
        request(Method::POST, path, &headers)
    };
    let answer = connection.send(call("/shop.Cart/Get", "2")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    // By service alone, as a regular expression.
    connection.send(call("/shop.Orders/List", "1")).await;
    let seen = seen(&apps);
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|s| s.header("x-g") == "1"));
    let unknown = connection.send(call("/bank.Account/Empty", "2")).await;
    assert_eq!(
        (unknown.status, unknown.header("grpc-status").as_str()),
        (StatusCode::OK, "12"),
        "unimplemented"
    );
    scenario
        .until_metric(
            "istio_requests_total",
            &[("request_protocol", "grpc"), ("grpc_response_status", "0")],
            2.0,
        )
        .await;
}

async fn tcp_ports(scenario: &Scenario, client: &Ztunnel) {
    for port in [3306, 443, 444] {
        let (answer, _) = client.exchange(multi(port), b"anything").await;
        assert_eq!(answer, "anything", "{port}");
    }
    // Four of five to the service, one to another, whose port speaks HTTP.
    let (mut own, mut other) = (0, 0);
    for _ in 0..60 {
        let mut stream = client.tunnel(multi(9000)).await;
        let asked = b"GET /tcp HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, asked)
            .await
            .unwrap();
        let mut first = [0; 4];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first)
            .await
            .unwrap();
        match &first {
            b"GET " => own += 1,
            b"HTTP" => other += 1,
            bytes => panic!("{bytes:?}"),
        }
    }
    assert!(other > 0 && own > other, "{own} and {other}");
    scenario
        .until_logged(&[
            "inbound-vip|9080|http|reviews-v1.default.svc.cluster.local",
            "10.43.50.1:9000",
        ])
        .await;
}
