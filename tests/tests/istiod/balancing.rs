//! How traffic is shared out, as a real istiod says it of a DestinationRule.

use http::{Method, StatusCode};
use waypoint_tests::Mesh;
use waypoint_tests::balancing::pods;
use waypoint_tests::istiod::{Istiod, Pod};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{get, request};

use crate::load::client;

const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: default}
spec:
  host: web.default.svc.cluster.local
  trafficPolicy:
    loadBalancer:
      consistentHash:
        maglev: {tableSize: 1009}
        httpCookie: {name: place, ttl: 60s, path: /, attributes: [{name: SameSite, value: Lax}]}
    outlierDetection:
      consecutive5xxErrors: 3
      interval: 1s
      baseEjectionTime: 2s
      maxEjectionPercent: 100
      minHealthPercent: 10
    retryBudget: {percent: 25, minRetryConcurrency: 2}
";

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_cookie_leads_to_a_pod_unless_that_is_ejected() {
    let mesh = Mesh::new();
    let apps = pods(&mesh, 3).await;
    let web = mesh.service(1, "web");
    mesh.manifest("rule.yaml", RULE);
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    istiod.until_synced().await;
    assert_eq!(http_get(pod.admin, "/problems").await.1, "");
    let client = client(&mesh, &pod).await;
    let first = client.request(web, get("/")).await;
    let set = first.header("set-cookie");
    let (cookie, rest) = set.split_once(';').unwrap();
    assert_eq!(rest, " Max-Age=60; Path=/; SameSite=Lax; HttpOnly");
    let again = async || {
        let asked = request(Method::GET, "/", &[("cookie", cookie)]);
        client.request(web, asked).await
    };
    let mine = first.header("x-app");
    for _ in 0..6 {
        assert_eq!(again().await.header("x-app"), mine);
    }
    let place = ["web-1", "web-2", "web-3"]
        .iter()
        .position(|name| *name == mine);
    let app = &apps[place.unwrap()];
    app.fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
    let other = until("another pod", async || {
        let answer = again().await;
        (answer.status == StatusCode::OK).then(|| answer.header("x-app"))
    })
    .await;
    assert_ne!(other, mine);
    app.fail(None);
    until("the first pod again", async || {
        (again().await.header("x-app") == mine).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn pods_take_turns_where_a_rule_says_so() {
    let mesh = Mesh::new();
    let _apps = pods(&mesh, 3).await;
    let web = mesh.service(1, "web");
    mesh.manifest(
        "rule.yaml",
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: web, namespace: default}\n\
         spec: {host: web.default.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}\n",
    );
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    istiod.until_synced().await;
    assert_eq!(http_get(pod.admin, "/problems").await.1, "");
    let client = client(&mesh, &pod).await;
    until("three that take turns", async || {
        let mut connection = client.http1(web).await;
        let mut answered = Vec::new();
        for _ in 0..12 {
            answered.push(connection.send(get("/")).await.header("x-app"));
        }
        let (first, rest) = answered.split_at(3);
        let turns = rest.chunks(3).all(|turn| turn == first);
        let all: std::collections::BTreeSet<_> = first.iter().collect();
        (turns && all.len() == 3).then_some(())
    })
    .await;
}
