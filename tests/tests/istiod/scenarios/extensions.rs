//! WasmPlugin and EnvoyFilter: what they add isn't built, and nobody gets around it.

use std::cell::RefCell;

use http::StatusCode;
use waypoint_tests::istiod::{EXTENSION, LISTENER};
use waypoint_tests::scenario::{Scenario, service, without_objects};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::ztunnel::{Http1, get};

use super::SERVICES;

const PLUGIN: &str =
    "extensions.istio.io/trafficextension/default.basic-auth~istio-translated-wasmplugin";

#[tokio::test]
#[ignore = "needs istiod"]
async fn that_come_later() {
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
    let filters = without_objects(&whole, &["kind: WasmPlugin"]);
    scenario.change(|_| filters);
    scenario.until_refused(&managers()).await;
    scenario
        .istiod
        .until_nacked(LISTENER, "is not built in")
        .await;
    served(&scenario, &mut connection).await;
}

/// Every connection manager, with a filter that isn't built.
fn managers() -> Vec<(&'static str, &'static str)> {
    let all = [
        "connect_terminate",
        "main_internal > direct-http",
        "main_internal > inbound-vip|9080|http|productpage.default.svc.cluster.local",
        "main_internal > inbound-vip|9080|http|details.default.svc.cluster.local",
        "main_internal > inbound-vip|9080|http|ratings.default.svc.cluster.local",
        "main_internal > inbound-vip|9080|http|reviews.default.svc.cluster.local",
        "main_internal > inbound-vip|9080|http|reviews-v1.default.svc.cluster.local",
        "main_internal > inbound-vip|9080|http|reviews-v2.default.svc.cluster.local",
        "main_internal > inbound-vip|9080|http|reviews-v3.default.svc.cluster.local",
    ];
    all.map(|manager| (manager, "is not built in")).into()
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
async fn from_the_start() {
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
async fn of_the_tunnels_from_the_start() {
    let mut scenario = Scenario::start("extensions").await;
    scenario
        .istiod
        .until_nacked(LISTENER, "connect_terminate")
        .await;
    // No tunnel is granted, and the pod isn't ready for any.
    let client = scenario.client("curl").await;
    let to = service("details").to_string();
    let (status, _) = client.connect_to(&to, &[]).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let (status, reason) = http_get(scenario.pod.readiness, "/healthz/ready").await;
    assert_eq!(status, 503, "{reason}");
    scenario.change(|text| without_objects(text, &["kind: WasmPlugin"]));
    scenario.until_refused(&managers()).await;
    scenario.change(|text| without_objects(text, &["name: lua", "name: rate-limit"]));
    scenario.until_refused(&[]).await;
    scenario.pod.until_ready().await;
    let answer = client.get(service("details"), "/").await;
    assert_eq!(answer.status, StatusCode::OK);
}
