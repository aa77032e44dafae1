//! Telemetry that a real istiod sent: a log's expression, labels added and removed, a metric that is off.

use http::Method;
use waypoint_tests::recorded_telemetry::with_recorded;
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{ControlPlane, Mesh};

#[tokio::test]
async fn logs_are_filtered_by_an_expression_and_labels_are_overridden() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(with_recorded(mesh.resources()));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    // `response.code >= 400 || request.headers['x-log'] == 'yes'`
    client.request(to, get("/quiet")).await;
    for (path, header) in [
        ("/asked", ("x-log", "yes")),
        ("/failed", ("x-status", "503")),
        ("/otherwise", ("x-log", "no")),
    ] {
        let told = request(Method::POST, path, &[header]);
        client.request(to, told).await;
    }
    client
        .request(to, request(Method::GET, "/last", &[("x-status", "404")]))
        .await;
    let line = waypoint.until_logged("/last").await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["code"], 404, "{line}");
    let log = waypoint.log();
    for (path, is_there) in [
        ("/asked", true),
        ("/failed", true),
        ("/quiet", false),
        ("/otherwise", false),
    ] {
        assert_eq!(log.contains(path), is_there, "{path}: {log}");
    }

    // `request_method: request.method`, without `connection_security_policy`.
    let of = |method: &'static str, code: &'static str| {
        [("request_method", method), ("response_code", code)]
    };
    for (labels, count) in [
        (of("GET", "200"), 1.0),
        (of("GET", "404"), 1.0),
        (of("POST", "503"), 1.0),
        (of("POST", "200"), 2.0),
    ] {
        waypoint
            .until_metric("istio_requests_total", &labels, count)
            .await;
    }
    let metrics = waypoint.metrics().await;
    let requests = |line: &&str| line.starts_with("istio_requests_total{");
    for line in metrics.lines().filter(requests) {
        assert!(!line.contains("connection_security_policy"), "{line}");
        assert!(line.contains("request_method"), "{line}");
    }
    // The others keep their labels; one is off.
    assert!(metrics.contains("istio_response_bytes_count{reporter="));
    assert!(
        !metrics.contains("# TYPE istio_request_bytes "),
        "{metrics}"
    );
    let kind = [("kind", "metric_override")];
    assert_eq!(waypoint.metric("waypoint_config_omitted", &kind).await, 0.0);
}
