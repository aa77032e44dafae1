//! Telemetry in a folder: logs to services, of requests and connections; what becomes of a service that is away; metrics that
//! are off.

use std::net::SocketAddr;

use envoy_types::pb::google::protobuf::Struct;
use http::StatusCode;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use waypoint_tests::collector::Mood;
use waypoint_tests::log_collector::LogCollector;
use waypoint_tests::wait::within;
use waypoint_tests::ztunnel::Ztunnel;
use waypoint_tests::{App, Mesh};

const ENTRIES: &str = "waypoint_access_log_entries_total";

fn settings(providers: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
         data: {{mesh: \"{{defaultProviders: {{metrics: [prometheus]}}, extensionProviders: [{providers}]}}\"}}\n"
    )
}

fn telemetry(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: default}}\nspec: {{{spec}}}\n"
    )
}

fn to_service(kind: &str, more: &str) -> String {
    format!("{{name: logs, {kind}: {{service: logs.default.svc.cluster.local, port: 80{more}}}}}")
}

async fn logs(mesh: &Mesh) -> LogCollector {
    mesh.describe_pod(3, "logs-1", "logs", false);
    mesh.service_with_port(3, "logs", "{name: grpc, port: 80, targetPort: 8080}");
    LogCollector::start(mesh.backend(3)).await
}

async fn echo(mut tcp: TcpStream) {
    let (mut read, mut write) = tcp.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// A service whose connections aren't HTTP.
async fn db(mesh: &Mesh) -> SocketAddr {
    mesh.describe_pod(2, "db-1", "db", false);
    App::tcp(mesh.backend(2), echo).await;
    mesh.service_with_port(2, "db", "{name: tcp, port: 80, targetPort: 8080}")
}

#[tokio::test]
async fn requests_and_connections_are_told_to_otlp() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let db = db(&mesh).await;
    let logs = logs(&mesh).await;
    let format = ", logFormat: {text: '%PROTOCOL% %BYTES_SENT%', labels: {code: '%RESPONSE_CODE%', who: '%DOWNSTREAM_PEER_URI_SAN%'}}";
    mesh.manifest(
        "settings.yaml",
        &settings(&to_service("envoyOtelAls", format)),
    );
    mesh.manifest(
        "telemetry.yaml",
        &telemetry("t", "accessLogging: [{providers: [{name: logs}], filter: {expression: '!has(response.code) || response.code != 404'}}]"),
    );
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    let mut record = logs.records(1).await.remove(0);
    assert!(record.body.starts_with("HTTP/1.1 "), "{record:?}");
    assert_eq!(record.attributes[0], ("code".to_owned(), "200".to_owned()));
    assert_eq!(
        record.attributes[1],
        (
            "who".to_owned(),
            "spiffe://cluster.local/ns/default/sa/curl".to_owned()
        )
    );
    assert!(record.resource.is_empty());
    let mut stream = client.tunnel(db).await;
    stream.write_all(b"abcd").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    within("the echo", stream.read_to_end(&mut all))
        .await
        .unwrap();
    record = logs.records(1).await.remove(0);
    assert_eq!(record.body, "- 4");
    waypoint
        .until_metric(ENTRIES, &[("result", "sent")], 2.0)
        .await;
}

#[tokio::test]
async fn envoys_service_is_told_of_requests_and_connections() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let db = db(&mesh).await;
    let logs = logs(&mesh).await;
    let tcp = to_service("envoyTcpAls", "").replace("name: logs,", "name: connections,");
    let http = to_service("envoyHttpAls", ", additionalRequestHeadersToLog: [x-a]");
    mesh.manifest("settings.yaml", &settings(&format!("{http}, {tcp}")));
    mesh.manifest(
        "telemetry.yaml",
        &telemetry("t", "accessLogging: [{providers: [{name: logs}]}]"),
    );
    mesh.manifest(
        "of-db.yaml",
        &telemetry(
            "of-db",
            "targetRefs: [{group: '', kind: Service, name: db}], accessLogging: [{providers: [{name: connections}]}]",
        ),
    );
    mesh.describe_pod(3, "curl-1", "curl", false);
    let waypoint = mesh.start().await;
    let (from, certificate) = (mesh.pod_ip(3), mesh.certificate("default", "curl"));
    let client = Ztunnel::connect_from(from, waypoint.running.hbone_addr, &certificate);
    let client = client.await.unwrap();
    client.get(web, "/a?b").await;
    let entry = logs.http(1).await.remove(0);
    assert_eq!(entry.log, "http_envoy_accesslog");
    assert_eq!(entry.node.1, "waypoint.default");
    let common = entry.entry.common_properties.unwrap();
    assert!(
        common.upstream_cluster.contains("|web.default."),
        "{common:?}"
    );
    let peer = &common.filter_state_objects["downstream_peer"];
    assert!(
        peer.type_url.ends_with("/google.protobuf.Struct"),
        "{peer:?}"
    );
    let peer = Struct::decode(peer.value.as_slice()).unwrap();
    assert!(peer.fields.contains_key("namespace"), "{peer:?}");
    assert!(common.duration.is_some() && common.upstream_remote_address.is_some());
    let tls = common.tls_properties.unwrap();
    assert_eq!(
        tls.peer_certificate_properties
            .unwrap()
            .subject_alt_name
            .len(),
        1
    );
    let request = entry.entry.request.unwrap();
    assert_eq!((request.path.as_str(), request.request_method), ("/a?b", 1));
    assert_eq!(
        entry.entry.response.unwrap().response_code.unwrap().value,
        200
    );
    let mut stream = client.tunnel(db).await;
    stream.write_all(b"abcd").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    within("the echo", stream.read_to_end(&mut all))
        .await
        .unwrap();
    let entry = logs.tcp(1).await.remove(0);
    assert_eq!(entry.log, "tcp_envoy_accesslog");
    let bytes = entry.entry.connection_properties.unwrap();
    assert_eq!((bytes.received_bytes, bytes.sent_bytes), (4, 4));
    assert_eq!(logs.http(0).await.len(), 0);
}

#[tokio::test]
async fn a_service_that_is_away_holds_nobody_up_and_is_told_of() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let logs = logs(&mesh).await;
    logs.mood(Mood::Refuses);
    mesh.manifest("settings.yaml", &settings(&to_service("envoyHttpAls", "")));
    mesh.manifest(
        "telemetry.yaml",
        &telemetry("t", "accessLogging: [{providers: [{name: logs}]}]"),
    );
    let (waypoint, client) = mesh.started().await;
    for _ in 0..3 {
        assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    }
    waypoint
        .until_metric(ENTRIES, &[("result", "failed")], 3.0)
        .await;
    let told = waypoint
        .until_problem("access log entries can't be sent and are lost")
        .await;
    assert!(told.contains("status 14"), "{told}");
    logs.mood(Mood::Takes);
    client.get(web, "/").await;
    logs.http(1).await;
    waypoint
        .until_metric(ENTRIES, &[("result", "sent")], 1.0)
        .await;
    assert!(!waypoint.problems().await.contains("can't be sent"));
    // One that never answers.
    logs.mood(Mood::Never);
    let calls = logs.calls();
    client.get(web, "/").await;
    waypoint_tests::wait::until("a call that isn't answered", async || {
        (logs.calls() > calls).then_some(())
    })
    .await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn metrics_are_off_for_whom_that_is_said() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let (api, _other) = mesh.http_service(2, "api").await;
    mesh.manifest(
        "telemetry.yaml",
        &telemetry(
            "t",
            "targetRefs: [{group: '', kind: Service, name: web}], metrics: [{overrides: [{disabled: true}]}]",
        ),
    );
    mesh.manifest(
        "all.yaml",
        &telemetry(
            "all",
            "metrics: [{overrides: [{match: {metric: REQUEST_SIZE}, disabled: true}, {match: {metric: REQUEST_COUNT}, tagOverrides: {method: {value: 'request.method'}, source_app: {operation: REMOVE}}}]}]",
        ),
    );
    let (waypoint, client) = mesh.started().await;
    client.get(web, "/").await;
    client.get(api, "/").await;
    let of_api = [
        ("destination_service", "api.default.svc.cluster.local"),
        ("method", "GET"),
    ];
    waypoint
        .until_metric("istio_requests_total", &of_api, 1.0)
        .await;
    let metrics = waypoint.metrics().await;
    let of = |part: &str| {
        metrics
            .lines()
            .filter(|l| l.starts_with("istio_") && l.contains(part))
            .count()
    };
    assert_eq!(of("web.default.svc"), 0, "{metrics}");
    assert_eq!(of("istio_request_bytes"), 0);
    assert!(of("istio_response_bytes_count") > 0);
    let counted = metrics
        .lines()
        .find(|l| l.starts_with("istio_requests_total{"));
    assert!(!counted.unwrap().contains("source_app"), "{counted:?}");
}
