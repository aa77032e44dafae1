//! What Istio's own dashboards read of a proxy (1.31: mesh, service, workload, control plane) is there, by name and label.
//!
//! The queries are written for this; metrics, labels and the way of asking are those of the dashboards. What a waypoint
//! on Envoy hasn't either isn't asked for: `envoy_wasm_…` without Wasm, `container_…`, which is the kubelet's, and who reports as
//! `source` or `destination`.

use waypoint_tests::prometheus::Prometheus;

use crate::dashboard::until_data;
use crate::scene::Scene;

const REQUESTS: &str = "istio_requests_total";
const DURATION: &str = "istio_request_duration_milliseconds_bucket";

/// Sums of a rate by labels, each to have a value that isn't `unknown`.
fn rates() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let web = "response_code=~\"2..\"";
    let workload = vec![
        "destination_workload",
        "destination_workload_namespace",
        "destination_service",
    ];
    let source = vec![
        "source_workload",
        "source_workload_namespace",
        "source_principal",
        "source_canonical_service",
        "source_canonical_revision",
        "source_cluster",
    ];
    let service = vec![
        "destination_service",
        "destination_service_name",
        "destination_service_namespace",
        "destination_canonical_service",
        "destination_canonical_revision",
        "destination_cluster",
        "request_protocol",
        "response_code",
        "response_flags",
        "connection_security_policy",
        "reporter",
    ];
    vec![
        (REQUESTS, web, workload.clone()),
        (REQUESTS, web, source.clone()),
        (REQUESTS, web, service),
        (
            REQUESTS,
            "response_code=~\"5..\"",
            vec!["destination_service"],
        ),
        (
            REQUESTS,
            "response_code=~\"4..\"",
            vec!["destination_service"],
        ),
        (
            REQUESTS,
            "connection_security_policy=\"mutual_tls\"",
            vec!["destination_principal"],
        ),
        (DURATION, web, vec!["le", "destination_service"]),
        (
            "istio_request_bytes_bucket",
            web,
            vec!["le", "source_workload"],
        ),
        (
            "istio_response_bytes_bucket",
            web,
            vec!["le", "source_workload"],
        ),
        ("istio_tcp_received_bytes_total", "", workload.clone()),
        ("istio_tcp_sent_bytes_total", "", source),
        ("istio_tcp_connections_opened_total", "", workload.clone()),
        ("istio_tcp_connections_closed_total", "", workload),
    ]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus: make test-prometheus"]
async fn what_istios_dashboards_read_is_there() {
    let scene = Scene::start().await;
    let stats = scene.waypoint.running.stats_addr;
    let prometheus = Prometheus::start(&scene.mesh, &[("waypoints", stats)], None).await;
    scene
        .under_load(async {
            for (metric, matching, labels) in rates() {
                let selector = format!("{metric}{{reporter=~\"source|waypoint\",{matching}}}");
                let by = labels.join(",");
                let sum = format!("round(sum by ({by}) (irate({selector}[5s])), 0.001) > 0");
                let series = until_data(&prometheus, metric, &sum).await;
                for label in labels {
                    let known = |series: &serde_json::Value| {
                        let value = series["metric"][label].as_str().unwrap_or_default();
                        !["", "unknown"].contains(&value)
                    };
                    assert!(series.iter().any(known), "{metric} {label}: {series:?}");
                }
            }
            let waypoint = "reporter=~\"source|waypoint\"";
            for query in [
                format!(
                    "sum(rate({REQUESTS}{{{waypoint},response_code!~\"5..\"}}[5s])) / sum(rate({REQUESTS}{{{waypoint}}}[5s])) < 1"
                ),
                format!(
                    "label_join(histogram_quantile(0.9, sum by (le, destination_workload, destination_workload_namespace) \
                     (rate({DURATION}{{{waypoint}}}[5s]))), \"of\", \".\", \"destination_workload\", \"destination_workload_namespace\") > 0"
                ),
                "sum by (component, tag) (istio_build{component=\"proxy\"}) == 1".to_owned(),
                "sum(envoy_cluster_upstream_cx_active{cluster_name=\"xds-grpc\"}) == 1".to_owned(),
            ] {
                until_data(&prometheus, "of Istio's", &query).await;
            }
        })
        .await;
}
