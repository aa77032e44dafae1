//! What the mesh's administrator sets: MeshConfig, Telemetry, WasmPlugin, EnvoyFilter.

use http::{Method, StatusCode};
use waypoint_tests::Ztunnel;
use waypoint_tests::istiod::LISTENER;
use waypoint_tests::scenario::{Scenario, service, without_objects};
use waypoint_tests::ztunnel::{get, request};

use crate::chain;

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
    // Traffic doesn't depend on it: nothing is refused, and what is left out is told.
    scenario.until_refused(&[]).await;
    scenario.istiod.until_synced().await;
    for left_out in [
        "access_log envoy.access_loggers.file.filter.extension_filter",
        "access_log envoy.access_loggers.open_telemetry",
        "metrics[0].dimensions",
        "metrics[0].tags_to_remove",
    ] {
        scenario
            .until_logged(&["left out: telemetry that isn't built", left_out])
            .await;
    }
    for kind in ["access_log", "metric_override"] {
        let omitted = scenario
            .pod
            .metric("waypoint_config_omitted_total", &[("kind", kind)])
            .await;
        assert!(omitted > 0.0, "{kind}");
    }
    scenario.until_logged(&["no spans are sent"]).await;

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

#[tokio::test]
#[ignore = "needs istiod"]
async fn extensions() {
    let all = std::cell::RefCell::new(String::new());
    // A filter for every connection manager, the tunnels' own among them: a waypoint that can't honour it
    // takes no tunnel. This one had a configuration before, and keeps it.
    let mut scenario = Scenario::start_with("extensions", &[], |text| {
        let first = without_objects(
            &text,
            &["name: lua", "name: rate-limit", "kind: WasmPlugin"],
        );
        *all.borrow_mut() = text;
        first
    })
    .await;
    scenario.pod.until_ready().await;
    scenario.until_refused(&[]).await;
    let client = scenario.client("curl").await;
    let mut connection = client.http1(service("details")).await;
    let answer = connection.send(get("/")).await;
    assert_eq!(
        (answer.status, answer.header("server").as_str()),
        (StatusCode::OK, "custom-server")
    );

    let plugin = "default.basic-auth~istio-translated-wasmplugin";
    let chains = [
        chain("productpage"),
        chain("details"),
        chain("ratings"),
        chain("reviews"),
        chain("reviews-v1"),
        chain("reviews-v2"),
        chain("reviews-v3"),
        "main_internal > direct-http".to_owned(),
    ];
    let mut refused: Vec<_> = chains.iter().map(|c| (c.as_str(), plugin)).collect();
    refused.push(("connect_terminate", "local_ratelimit"));
    let whole = all.into_inner();
    scenario.change(|_| whole);
    scenario.until_refused(&refused).await;
    scenario
        .istiod
        .until_nacked(LISTENER, "local_ratelimit")
        .await;
    let answer = connection.send(get("/")).await;
    assert_eq!(
        answer.header("server"),
        "custom-server",
        "the last good version"
    );
    assert_eq!(
        scenario
            .client("curl")
            .await
            .get(service("details"), "/")
            .await
            .status,
        StatusCode::OK
    );
}
