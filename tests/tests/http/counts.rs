//! What Istio's metrics say where something is special: messages of gRPC, a connection without a byte, a chain that is closed.

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use waypoint_tests::log_collector::LogCollector;
use waypoint_tests::wait::within;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh};

#[tokio::test]
async fn messages_of_grpc_are_counted() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "logs-1", "logs", false);
    // Any service of gRPC: it answers with one message.
    LogCollector::start(mesh.backend(1)).await;
    let to = mesh.service_with_port(1, "logs", "{name: grpc, port: 80, targetPort: 8080}");
    let (waypoint, client) = mesh.started().await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let path = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
    let mut call = request(Method::POST, path, &headers);
    *call.body_mut() = bytes::Bytes::from_static(&[0; 15]).into();
    let answer = client.http2(to).await.send(call).await;
    assert_eq!(answer.status, StatusCode::OK);
    let labels = [
        ("request_protocol", "grpc"),
        ("grpc_response_status", "0"),
        ("response_flags", "-"),
        ("destination_service", "logs.default.svc.cluster.local"),
        ("destination_workload", "logs-1"),
    ];
    for (name, value) in [
        ("istio_requests_total", 1.0),
        ("istio_request_messages_total", 3.0),
        ("istio_response_messages_total", 1.0),
    ] {
        waypoint.until_metric(name, &labels, value).await;
    }
}

#[tokio::test]
async fn a_connection_that_never_sent_a_byte_is_one_all_the_same() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "db-1", "db", false);
    App::tcp(mesh.backend(1), |mut tcp| async move {
        let mut asked = Vec::new();
        let _ = tcp.read_to_end(&mut asked).await;
    })
    .await;
    let to = mesh.service_with_port(1, "db", "{name: tcp, port: 80, targetPort: 8080}");
    let (waypoint, client) = mesh.started().await;
    let mut stream = client.tunnel(to).await;
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    within("its end", stream.read_to_end(&mut all))
        .await
        .unwrap();
    assert_eq!(all, b"");
    let labels = [
        ("destination_service", "db.default.svc.cluster.local"),
        ("destination_workload", "db-1"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/default/sa/curl",
        ),
        ("request_protocol", "tcp"),
        ("response_flags", "-"),
    ];
    for (name, value) in [
        ("istio_tcp_connections_opened_total", 1.0),
        ("istio_tcp_connections_closed_total", 1.0),
    ] {
        waypoint.until_metric(name, &labels, value).await;
    }
    for name in [
        "istio_tcp_received_bytes_total",
        "istio_tcp_sent_bytes_total",
    ] {
        assert_eq!(waypoint.metric(name, &labels).await, 0.0, "{name}");
    }
}

#[tokio::test]
async fn requests_to_a_closed_chain_are_counted_with_who_sent_them() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest(
        "guard.yaml",
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: guard, namespace: default}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: web}], url: 'oci://a.test/b', phase: AUTHN}\n",
    );
    let (waypoint, client) = mesh.started().await;
    let answer = client.get(to, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(app.seen().is_empty());
    let labels = [
        ("response_code", "503"),
        ("request_protocol", "http"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/default/sa/curl",
        ),
        ("destination_workload", "unknown"),
    ];
    waypoint
        .until_metric("istio_requests_total", &labels, 1.0)
        .await;
    waypoint.until_logged(" 503 ").await;
}
