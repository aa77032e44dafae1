//! What holds for the whole mesh: MeshConfig, Telemetry.

use http::{Method, StatusCode};
use waypoint_tests::Ztunnel;
use waypoint_tests::istiod::ANNOTATIONS;
use waypoint_tests::scenario::{Scenario, service};
use waypoint_tests::ztunnel::request;

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
async fn proxy_config_and_the_clients_identity() {
    let settings = "{connectionSettings: {httpIdleTimeout: 600s, httpMaxConnectionDuration: 1s, httpDrainTimeout: 20s, \
        httpRequestTimeout: 25s, httpRequestHeadersTimeout: 10s, httpStreamIdleTimeout: 20s, httpMaxStreamDuration: 1.5s, \
        httpMaxConcurrentStreams: 50, http2InitialStreamWindowSize: 65536, http2InitialConnectionWindowSize: 1048576, \
        httpHeadersWithUnderscoresAction: HEADERS_WITH_UNDERSCORES_DROP_HEADER, httpMergeSlashes: true, \
        httpPathWithEscapedSlashesAction: REJECT_REQUEST}, \
        proxyHeaders: {server: {value: mine}, requestId: {disabled: true}, xForwardedPort: {enabled: true}, \
        envoyDebugHeaders: {disabled: true}, preserveHttp1HeaderCase: true}}";
    let annotations = format!(
        "ambient.istio.io/xfcc-include-client-identity=\"true\"\nproxy.istio.io/config=\"{settings}\"\n"
    );
    let annotations = [(ANNOTATIONS, annotations.as_str())];
    let scenario = Scenario::start_with("walkthrough", &annotations, |text| text).await;
    scenario.pod.until_ready().await;
    scenario.until_refused(&[]).await;
    let details = service("details");
    let client = scenario.client("curl").await;
    let lies = [
        ("a_b", "c"),
        (
            "x-forwarded-client-cert",
            "URI=spiffe://cluster.local/ns/default/sa/admin",
        ),
    ];
    let mut http1 = client.http1(details).await;
    let answer = http1.send(request(Method::GET, "/a//b", &lies)).await;
    assert_eq!(
        (answer.status, answer.header("server")),
        (StatusCode::OK, "mine".to_owned())
    );
    assert_eq!(answer.header("x-envoy-upstream-service-time"), "");
    let seen = scenario.app("details-v1").last();
    assert_eq!(seen.target, "/a/b");
    let right = "By=spiffe://cluster.local/ns/default/sa/waypoint;URI=spiffe://cluster.local/ns/default/sa/curl";
    assert_eq!(seen.header("x-forwarded-client-cert"), right);
    assert_eq!(seen.header("x-forwarded-port"), "9080");
    assert_eq!(
        (seen.header("a_b"), seen.header("x-request-id")),
        Default::default()
    );
    tokio::time::sleep(std::time::Duration::from_millis(1300)).await;
    let answer = http1.send(request(Method::GET, "/", &[])).await;
    assert_eq!(answer.header("connection"), "close", "it is old");
    let slow = request(Method::GET, "/", &[("x-delay-ms", "4000")]);
    let slow = client.request(details, slow).await;
    assert_eq!(slow.status, StatusCode::GATEWAY_TIMEOUT);
    scenario.until_logged(&["504 - max_duration_timeout"]).await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn telemetry() {
    let scenario = Scenario::start("telemetry").await;
    scenario.pod.until_ready().await;
    // Nothing is refused, and nothing left out.
    scenario.until_refused(&[]).await;
    scenario.istiod.until_synced().await;
    for (kind, count) in [
        ("access_log", 0.0),
        ("metric_override", 0.0),
        ("tracer", 0.0),
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
        let labels = [
            ("destination_service", host.as_str()),
            ("request_method", "GET"),
        ];
        scenario
            .until_metric("istio_requests_total", &labels, 1.0)
            .await;
    }
    let sizes = scenario.pod.metric("istio_request_bytes_count", &[]).await;
    assert_eq!(sizes, 0.0, "turned off");
    assert!(
        !scenario.pod.log().contains("\"path\""),
        "none was asked for"
    );
    let asked = request(Method::GET, "/asked", &[("x-log", "yes")]);
    client.request(service("details"), asked).await;
    scenario.until_logged(&["\"/asked\""]).await;
}
