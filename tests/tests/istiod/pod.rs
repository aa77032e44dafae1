//! The waypoint's pod under a real istiod: configured and certified, seen as synced, replaced under load.

use std::time::Duration;

use http::{Method, StatusCode};
use waypoint_tests::istiod::{Istiod, Pod};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{Mesh, Ztunnel};

use crate::changes::{policy, route};
use crate::load::{Load, client};

#[tokio::test]
#[ignore = "needs istiod"]
async fn the_pod_is_configured_certified_and_seen_as_synced() {
    let mesh = Mesh::new();
    let (web, _, ztunnel) = mesh.captured_service(1, "web").await;
    let (plain, _) = mesh.http_service(2, "plain").await;
    mesh.manifest("policy.yaml", &policy("web", "action: DENY", "/denied"));
    let istiod = Istiod::start(&mesh);
    let mut pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;

    let client = client(&mesh, &pod).await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    assert_eq!(ztunnel.connects().len(), 1, "over HBONE");
    assert_eq!(client.get(plain, "/").await.status, StatusCode::OK);
    let denied = client.get(web, "/denied").await;
    assert_eq!(
        (denied.status, denied.text().as_str()),
        (StatusCode::FORBIDDEN, "RBAC: access denied")
    );
    let labels = [
        ("reporter", "waypoint"),
        ("destination_workload", "web-1"),
        ("destination_service", "web.default.svc.cluster.local"),
        ("response_code", "200"),
    ];
    until("the request's metric", async || {
        (pod.metric("istio_requests_total", &labels).await == 1.0).then_some(())
    })
    .await;

    istiod.until_synced().await;
    assert_eq!(pod.terminate().await, Some(0));
}

/// istiod writes for the version that a proxy reports: here, under which type a tunnel's ends are handed on.
#[tokio::test]
#[ignore = "needs istiod"]
async fn a_pod_that_reports_an_older_version_is_configured_whole() {
    let mesh = Mesh::new();
    let (web, ..) = mesh.captured_service(1, "web").await;
    mesh.manifest(
        "policy.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: web}], rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/curl]}}]}]}\n",
    );
    let istiod = Istiod::start(&mesh);
    let types = ["envoy.string", "istio.hashable_string"];
    for (version, written) in [
        ("1.24.0", types[0]),
        ("1.28.0", types[0]),
        ("1.30.0", types[1]),
    ] {
        let reported = [("ISTIO_META_ISTIO_VERSION", version)];
        let pod = Pod::start_with(&mesh, &istiod, 240, &reported);
        pod.until_ready().await;
        istiod.until_synced().await;
        assert_eq!(istiod.syncz().await[0]["istio_version"], version);
        let dump = istiod.config_dump().await;
        for name in types {
            assert_eq!(dump.contains(name), name == written, "{version}: {name}");
        }
        assert_eq!(http_get(pod.admin, "/problems").await.1, "");
        let curl = client(&mesh, &pod).await;
        assert_eq!(curl.get(web, "/").await.status, StatusCode::OK);
        let other = mesh.certificate("default", "other");
        let other = Ztunnel::connect(pod.hbone, &other).await.unwrap();
        assert_eq!(other.get(web, "/").await.status, StatusCode::FORBIDDEN);
        let principal = "spiffe://cluster.local/ns/default/sa/other";
        until("the denied one's principal", async || {
            let labels = [("source_principal", principal)];
            (pod.metric("istio_requests_total", &labels).await == 1.0).then_some(())
        })
        .await;
        drop(pod);
        until("its end in istiod's view", async || {
            let left = istiod.syncz().await;
            left.as_array().is_none_or(Vec::is_empty).then_some(())
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn istiod_goes_and_comes_back() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    mesh.http_service(2, "a").await;
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    let load = Load::start(&mesh, &pod, web).await;
    drop(istiod);
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Meanwhile: a route appears, and a service goes.
    mesh.manifest("route.yaml", &route("a"));
    let (late, _) = mesh.http_service(3, "late").await;
    let _istiod = Istiod::start(&mesh);
    let client = client(&mesh, &pod).await;
    until("what changed meanwhile", async || {
        (client.get(web, "/").await.header("x-app") == "a").then_some(())
    })
    .await;
    until("the new service", async || {
        let (status, _) = client.connect_to(&late.to_string(), &[]).await.ok()?;
        (status == StatusCode::OK && client.get(late, "/").await.status == StatusCode::OK)
            .then_some(())
    })
    .await;
    assert!(
        pod.metric("waypoint_xds_streams_total", &[("state", "opened")])
            .await
            >= 2.0
    );
    assert!(load.finish().await > 50);
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_pod_can_be_replaced_under_load() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = Istiod::start(&mesh);
    let mut old = Pod::start(&mesh, &istiod, 240);
    let new = Pod::start(&mesh, &istiod, 241);
    old.until_ready().await;
    new.until_ready().await;
    let through_new = Load::start(&mesh, &new, web).await;
    // What runs in the old one is finished, though it is told to end in the middle.
    let client = client(&mesh, &old).await;
    let mut connection = client.http1(web).await;
    let slow = request(Method::GET, "/slow", &[("x-delay-ms", "800")]);
    let slow = tokio::spawn(async move { connection.send(slow).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(old.terminate().await, Some(0));
    assert_eq!(slow.await.unwrap().status, StatusCode::OK);
    assert!(through_new.finish().await > 50);
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn http_10_is_taken_where_the_pods_metadata_says_so() {
    for (variables, begins) in [
        (&[][..], "HTTP/1.0 426"),
        (&[("ISTIO_META_HTTP10", "1")][..], "HTTP/1.0 200"),
    ] {
        let mesh = Mesh::new();
        let (web, _app) = mesh.http_service(1, "web").await;
        let istiod = Istiod::start(&mesh);
        let pod = Pod::start_with(&mesh, &istiod, 240, variables);
        pod.until_ready().await;
        istiod.until_synced().await;
        let client = client(&mesh, &pod).await;
        let answer = client
            .raw(web, b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")
            .await;
        assert!(answer.starts_with(begins), "{answer}");
    }
}
