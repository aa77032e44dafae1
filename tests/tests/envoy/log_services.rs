//! Services of access logs beside real Envoy: the same connection manager and the same requests, and what the service is told
//! of them is the same, but for times, ports and what the proxies say of themselves.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry};
use http::Request;
use http_body_util::Full;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::ext_authz_resources::cluster_of;
use waypoint_tests::log_collector::{LogCollector, http_log, logged, otel_log, tcp_log};
use waypoint_tests::ztunnel::{Ztunnel, get};
use waypoint_tests::{ControlPlane, Mesh, Waypoint};

struct Scene {
    _mesh: Mesh,
    _istiod: ControlPlane,
    _waypoint: Waypoint,
    _envoy: Envoy,
    proxies: [Ztunnel; 2],
    to: SocketAddr,
    collector: LogCollector,
}

async fn scene() -> Scene {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    mesh.describe_pod(2, "collector-1", "collector", false);
    mesh.service_with_port(2, "collector", "{name: grpc, port: 80, targetPort: 8080}");
    let collector = LogCollector::start(mesh.backend(2)).await;
    let cluster = cluster_of(&mesh, "collector");
    let attributes = [
        ("code", "%RESPONSE_CODE%"),
        ("none", "%REQ(X-NONE)%"),
        ("both", "%PROTOCOL% %RESPONSE_FLAGS%"),
        ("constant", "text"),
    ];
    let logs = [
        otel_log(&cluster, "%REQ(:METHOD)% %REQ(:PATH)%\n", &attributes),
        http_log(&cluster),
        tcp_log(&cluster),
    ];
    let resources = logged(&mesh, "web", &logs);
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, ours) = mesh.started_under(&istiod).await;
    assert_eq!(istiod.discovery.refusals(), Vec::<String>::new());
    let (envoy, address) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let theirs = Ztunnel::connect(address, &certificate).await.unwrap();
    Scene {
        _mesh: mesh,
        _istiod: istiod,
        _waypoint: waypoint,
        _envoy: envoy,
        proxies: [ours, theirs],
        to,
        collector,
    }
}

fn asked(path: &str, headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = get(path);
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// Whether there is a time; it is never the same.
fn noted<T>(time: &mut Option<T>)
where
    T: Default,
{
    *time = time.take().map(|_| T::default());
}

fn hide(common: &mut AccessLogCommon) {
    noted(&mut common.start_time);
    for time in [
        &mut common.time_to_last_rx_byte,
        &mut common.time_to_first_upstream_tx_byte,
        &mut common.time_to_last_upstream_tx_byte,
        &mut common.time_to_first_upstream_rx_byte,
        &mut common.time_to_last_upstream_rx_byte,
        &mut common.time_to_first_downstream_tx_byte,
        &mut common.time_to_last_downstream_tx_byte,
        &mut common.duration,
    ] {
        noted(time);
    }
    // Envoy's are those of its internal listener, or of another connection.
    common.downstream_remote_address = None;
    common.downstream_direct_remote_address = None;
    common.upstream_local_address = None;
    common.downstream_local_address = None;
    common.tls_properties = None;
    common.stream_id.clear();
    // Peers are objects of Istio's own build.
    common.filter_state_objects.clear();
    common.metadata = None;
    common.downstream_wire_bytes_sent = 0;
    common.downstream_wire_bytes_received = 0;
    common.upstream_wire_bytes_sent = 0;
    common.upstream_wire_bytes_received = 0;
}

fn of_http(mut entry: HttpAccessLogEntry) -> String {
    hide(entry.common_properties.as_mut().unwrap());
    let request = entry.request.as_mut().unwrap();
    let made = [
        &mut request.request_headers_bytes,
        &mut request.upstream_header_bytes_sent,
        &mut request.downstream_header_bytes_received,
    ];
    made.into_iter().for_each(|bytes| *bytes = (*bytes).min(1));
    request.request_id = request.request_id.len().to_string();
    let response = entry.response.as_mut().unwrap();
    let made = [
        &mut response.response_headers_bytes,
        &mut response.upstream_header_bytes_received,
        &mut response.downstream_header_bytes_sent,
    ];
    made.into_iter().for_each(|bytes| *bytes = (*bytes).min(1));
    // Lists without an order.
    let mut all: Vec<_> = std::mem::take(&mut request.request_headers)
        .into_iter()
        .collect();
    all.extend(std::mem::take(&mut response.response_headers));
    all.sort();
    format!("{entry:#?} {all:?}")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Envoy"]
async fn a_service_of_logs_is_told_the_same() {
    let scene = scene().await;
    let requests = [
        asked("/a?b=c", &[("x-a", "1"), ("user-agent", "curl/8")]),
        asked("/x", &[("x-status", "404"), ("referer", "r")]),
        asked("/x", &[("x-status", "503"), ("x-forwarded-for", "1.2.3.4")]),
    ];
    let mut told = [Vec::new(), Vec::new()];
    for (proxy, told) in scene.proxies.iter().zip(&mut told) {
        for request in &requests {
            proxy.request(scene.to, request.clone()).await;
            let records = scene.collector.records(1).await;
            let mut http = scene.collector.http(1).await;
            let mut tcp = scene.collector.tcp(1).await;
            let record = &records[0];
            assert_eq!((records.len(), http.len(), tcp.len()), (1, 1, 1));
            told.push(format!(
                "{:?} {:?} {:?} {:?} {:?}",
                record.body,
                record.attributes,
                record.resource,
                record.trace_id,
                record.time > 0
            ));
            let http = http.remove(0);
            assert_eq!(http.log, "http");
            told.push(of_http(http.entry));
            let mut tcp = tcp.remove(0);
            assert_eq!(tcp.log, "tcp");
            hide(tcp.entry.common_properties.as_mut().unwrap());
            told.push(format!("{:#?}", tcp.entry));
        }
        // What is late belongs to nobody else.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let [ours, theirs] = &told;
    let mut wrong = Vec::new();
    for (ours, theirs) in ours.iter().zip(theirs) {
        if ours != theirs {
            let only = |a: &str, b: &str| {
                let lines = a.lines().filter(|line| !b.lines().any(|l| l == *line));
                lines.collect::<Vec<_>>().join("\n")
            };
            wrong.push(format!(
                "OURS\n{}\nTHEIRS\n{}",
                only(ours, theirs),
                only(theirs, ours)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
