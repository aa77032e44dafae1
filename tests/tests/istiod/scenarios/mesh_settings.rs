//! What holds for the whole mesh: MeshConfig, Telemetry.

use http::{Method, StatusCode};
use waypoint_tests::Ztunnel;
use waypoint_tests::scenario::{Scenario, service};
use waypoint_tests::ztunnel::request;

use super::{SERVICES, chain};

#[tokio::test]
#[ignore = "needs istiod"]
async fn mesh_defaults() {
    let domain = [("TRUST_DOMAIN", "prod.example")];
    let scenario = Scenario::start_with("mesh-defaults", &domain, |text| text).await;
    scenario.pod.until_ready().await;
    scenario.until_refused(&[]).await;
    let client = scenario.client("curl").await;
    let details = service("details");
    // Slashes are merged, before anything looks at the path.
    assert_eq!(client.get(details, "//a///b").await.status, StatusCode::OK);
    assert_eq!(scenario.app("details-v1").last().target, "/a/b");
    let line = scenario.until_logged(&["{", "\"/a/b\""]).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line, serde_json::json!({"path": "/a/b", "code": 200}));
    // The waypoint, its peers and their alias.
    let peer = &scenario.ztunnel("details-v1").connects()[0].peer;
    assert_eq!(peer, "spiffe://prod.example/ns/default/sa/waypoint");
    let alias = ("cluster.local", "default", "curl");
    let alias = scenario.client_as("curl", alias).await;
    assert_eq!(alias.get(details, "/").await.status, StatusCode::OK);
    let foreign = waypoint_hbone::identity::Identity::istio("old.example", "default", "curl");
    let foreign = scenario
        .mesh
        .ca
        .mint(&foreign.unwrap(), std::time::Duration::from_secs(600))
        .unwrap();
    assert!(
        Ztunnel::connect(scenario.pod.hbone, &foreign)
            .await
            .is_err()
    );
    // `unavailable` is tried again, five times; a plain 503 is not.
    let app = scenario.app("details-v1");
    app.forget();
    let unavailable = [
        ("content-type", "application/grpc"),
        ("x-answer-header", "grpc-status=14"),
    ];
    let answer = client
        .request(details, request(Method::POST, "/a.B/C", &unavailable))
        .await;
    assert_eq!(answer.header("grpc-status"), "14");
    assert_eq!(app.seen().len(), 6);
    app.forget();
    let failing = request(Method::GET, "/", &[("x-status", "503")]);
    assert_eq!(
        client.request(details, failing).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(app.seen().len(), 1);
    let principal = "spiffe://prod.example/ns/default/sa/curl";
    scenario
        .until_metric(
            "istio_requests_total",
            &[("source_principal", principal), ("response_code", "503")],
            1.0,
        )
        .await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn telemetry() {
    let scenario = Scenario::start("telemetry").await;
    scenario.pod.until_ready().await;
    // Traffic doesn't depend on it: nothing is refused, and what is left out is told of.
    let services: Vec<_> = SERVICES
        .map(|s| chain(s)["main_internal > ".len()..].to_owned())
        .into();
    let mut left_out = Vec::new();
    let of = |chains: &[&str], what: &'static str| -> Vec<(String, &str)> {
        let services = services.iter().map(String::as_str);
        let all = services.chain(chains.iter().copied());
        all.map(|chain| (chain.to_owned(), what)).collect()
    };
    let (listeners, http, any) = (
        [
            "connect_terminate",
            "main_internal",
            "direct-http",
            "direct-tcp",
        ],
        ["direct-http"],
        ["direct-http", "direct-tcp"],
    );
    left_out.extend(of(&listeners, "extension_filters.cel"));
    left_out.extend(of(&listeners, "envoy.access_loggers.open_telemetry"));
    left_out.extend(of(&any, "metrics[0].dimensions"));
    left_out.extend(of(&any, "metrics[0].tags_to_remove"));
    left_out.extend(of(&http, "no spans are sent"));
    let expected: Vec<_> = left_out
        .iter()
        .map(|(c, what)| (c.as_str(), *what))
        .collect();
    scenario.until_refused(&expected).await;
    scenario.istiod.until_synced().await;
    for (kind, count) in [
        ("access_log", 22.0),
        ("metric_override", 18.0),
        ("tracer", 8.0),
    ] {
        let omitted = scenario
            .pod
            .metric("waypoint_config_omitted", &[("kind", kind)])
            .await;
        assert_eq!(omitted, count, "{kind}");
    }

    let client = scenario.client("curl").await;
    for name in ["details", "reviews", "ratings"] {
        let answer = client.get(service(name), "/").await;
        assert_eq!(answer.status, StatusCode::OK, "{name}");
    }
    for name in ["details", "ratings"] {
        // That `ratings` counts nothing is overruled: the Gateway's Telemetry is the younger.
        let host = format!("{name}.default.svc.cluster.local");
        let labels = [("destination_service", host.as_str())];
        scenario
            .until_metric("istio_requests_total", &labels, 1.0)
            .await;
    }
    let sizes = scenario.pod.metric("istio_request_bytes_count", &[]).await;
    assert_eq!(sizes, 0.0, "turned off");
    assert!(
        !scenario.pod.log().contains("\"path\""),
        "no log but a filtered one"
    );
}
