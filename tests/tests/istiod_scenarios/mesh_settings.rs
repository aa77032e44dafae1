//! What the mesh's administrator sets: MeshConfig, Telemetry, WasmPlugin, EnvoyFilter.

use std::cell::RefCell;

use http::{Method, StatusCode};
use waypoint_tests::Ztunnel;
use waypoint_tests::istiod::{EXTENSION, LISTENER};
use waypoint_tests::scenario::{Scenario, service, without_objects};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::ztunnel::{Http1, get, request};

use crate::{SERVICES, chain};

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

const PLUGIN: &str =
    "extensions.istio.io/trafficextension/default.basic-auth~istio-translated-wasmplugin";

#[tokio::test]
#[ignore = "needs istiod"]
async fn extensions_that_come_later() {
    let whole = RefCell::new(String::new());
    let mut scenario = Scenario::start_with("extensions", &[], |text| {
        let first = without_objects(
            &text,
            &["name: lua", "name: rate-limit", "kind: WasmPlugin"],
        );
        *whole.borrow_mut() = text;
        first
    })
    .await;
    let whole = whole.into_inner();
    scenario.pod.until_ready().await;
    // What an EnvoyFilter sets in the connection manager; what it adds to a service does not attach.
    scenario.until_refused(&[]).await;
    let client = scenario.client("curl").await;
    let mut connection = client.http1(service("details")).await;
    served(&scenario, &mut connection).await;

    // A plug-in on the Gateway: every chain goes on without it, as it was.
    let plugin = without_objects(&whole, &["name: lua", "name: rate-limit"]);
    scenario.change(|_| plugin);
    let wasm = (PLUGIN, "envoy.extensions.filters.http.wasm.v3.Wasm");
    scenario.until_refused(&[wasm]).await;
    scenario.istiod.until_nacked(EXTENSION, "wasm").await;
    scenario
        .until_metric("waypoint_filter_chains", &[("state", "stale")], 8.0)
        .await;
    served(&scenario, &mut connection).await;

    // Filters for every connection manager, the tunnels' own among them.
    scenario.change(|_| whole);
    scenario
        .until_refused(&[wasm, ("connect_terminate", "is not built in")])
        .await;
    scenario
        .istiod
        .until_nacked(LISTENER, "is not built in")
        .await;
    served(&scenario, &mut connection).await;
}

/// On a connection that was there before, and on a new one.
async fn served(scenario: &Scenario, connection: &mut Http1) {
    let client = scenario.client("curl").await;
    let answers = [
        connection.send(get("/")).await,
        client.get(service("reviews"), "/").await,
    ];
    for answer in answers {
        assert_eq!(
            (answer.status, answer.header("server").as_str()),
            (StatusCode::OK, "custom-server")
        );
    }
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn extensions_from_the_start() {
    let mut scenario = Scenario::start_with("extensions", &[], |text| {
        without_objects(&text, &["name: lua", "name: rate-limit"])
    })
    .await;
    let wasm = (PLUGIN, "envoy.extensions.filters.http.wasm.v3.Wasm");
    scenario.until_refused(&[wasm]).await;
    // What it would have decided isn't decided: nobody gets through.
    let client = scenario.client("curl").await;
    for name in SERVICES {
        scenario
            .until_status(&client, service(name), "/", 503)
            .await;
    }
    scenario.change(|text| without_objects(text, &["kind: WasmPlugin"]));
    scenario.until_refused(&[]).await;
    scenario.pod.until_ready().await;
    scenario.istiod.until_synced().await;
    let answer = client.get(service("details"), "/").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn extensions_of_the_tunnels_from_the_start() {
    let mut scenario = Scenario::start("extensions").await;
    let wasm = (PLUGIN, "envoy.extensions.filters.http.wasm.v3.Wasm");
    scenario
        .until_refused(&[wasm, ("connect_terminate", "is not built in")])
        .await;
    // No tunnel is granted, and the pod isn't ready for any.
    let client = scenario.client("curl").await;
    let to = service("details").to_string();
    let (status, _) = client.connect_to(&to, &[]).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let (status, reason) = http_get(scenario.pod.readiness, "/healthz/ready").await;
    assert_eq!(status, 503, "{reason}");
    scenario.change(|text| without_objects(text, &["name: lua", "name: rate-limit", "WasmPlugin"]));
    scenario.until_refused(&[]).await;
    scenario.pod.until_ready().await;
    let answer = client.get(service("details"), "/").await;
    assert_eq!(answer.status, StatusCode::OK);
}
