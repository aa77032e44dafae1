//! Manifests and certificates that change while traffic runs, and the waypoint's end.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use waypoint_tests::Mesh;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{get, request};

fn route(to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: web, port: 80}}], rules: [{{backendRefs: [{{name: {to}, port: 80}}]}}]}}\n"
    )
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}]{spec}}}\n"
    )
}

#[tokio::test]
async fn routes_change_under_load_without_a_lost_request() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (_, a) = mesh.http_service(2, "a").await;
    let (_, b, _) = mesh.captured_service(3, "b").await;
    mesh.manifest("route.yaml", &route("a"));
    let waypoint = mesh.start().await;
    let (stop, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut load = Vec::new();
    for _ in 0..4 {
        let client = mesh.client(&waypoint, "default", "curl").await;
        let (stop, sent) = (stop.clone(), sent.clone());
        load.push(tokio::spawn(async move {
            let mut connection = client.http1(to).await;
            while !stop.load(Ordering::Relaxed) {
                let answer = connection.send(get("/")).await;
                assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
                sent.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }));
    }
    for target in ["b", "a", "b"] {
        let app = if target == "a" { &a } else { &b };
        mesh.manifest("route.yaml", &route(target));
        app.forget();
        until("traffic at the new target", async || {
            (app.seen().len() > 20).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert!(sent.load(Ordering::Relaxed) > 60);
}

#[tokio::test]
async fn broken_yaml_is_named_and_what_was_good_stays() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    mesh.manifest(
        "broken.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: [this is: no mapping\n",
    );
    let problems = waypoint.until_problem("broken.yaml").await;
    assert!(problems.contains("not in use"), "{problems}");
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    waypoint
        .until_metric(
            "waypoint_config_updates_total",
            &[("result", "refused")],
            1.0,
        )
        .await;
    mesh.remove_manifest("broken.yaml");
    until("the problem to go", async || {
        (!waypoint.problems().await.contains("broken.yaml")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_broken_policy_closes_what_it_targets_and_says_so() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (other, _) = mesh.http_service(2, "shop").await;
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    assert_eq!(client.get(to, "/before").await.status, StatusCode::OK);
    mesh.manifest(
        "policy.yaml",
        &policy(", action: CUSTOM, provider: {name: x}, rules: [{}]"),
    );
    waypoint
        .until_problem("AuthorizationPolicy default/p")
        .await;
    let answer = until("the closed service", async || {
        let answer = client.get(to, "/closed").await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
    })
    .await;
    assert!(
        answer.text().contains("AuthorizationPolicy default/p"),
        "{}",
        answer.text()
    );
    assert_eq!(client.get(other, "/open").await.status, StatusCode::OK);
    app.forget();
    client.get(to, "/closed").await;
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn a_broken_policy_at_the_start_is_no_start() {
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    mesh.manifest("policy.yaml", &policy(", action: PERHAPS"));
    let error = mesh.try_start().await.err().expect("a refusal").to_string();
    for part in ["policy.yaml", "AuthorizationPolicy default/p", "PERHAPS"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn services_come_and_go() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let (late, _) = mesh.http_service(2, "late").await;
    until("the new service", async || {
        let (status, _) = client.connect_to(&late.to_string(), &[]).await.unwrap();
        (status == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(client.get(late, "/").await.status, StatusCode::OK);
    mesh.remove_manifest("service-late.yaml");
    until("its end", async || {
        let (status, _) = client.connect_to(&late.to_string(), &[]).await.unwrap();
        (status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_end_waits_for_what_runs() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let idle = client.http1(to).await;
    let mut busy = client.http1(to).await;
    let running = tokio::spawn(async move {
        busy.send(request(Method::GET, "/slow", &[("x-delay-ms", "600")]))
            .await
    });
    tokio::time::sleep(Duration::from_millis(150)).await;
    let address = waypoint.address();
    let readiness = waypoint.running.readiness_addr;
    let ended = tokio::spawn(waypoint.running.shutdown());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (status, text) = waypoint_tests::telemetry::http_get(readiness, "/healthz/ready").await;
    assert_eq!((status, text.as_str()), (503, "draining\n"));
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "no new connections"
    );
    assert_eq!(running.await.unwrap().status, StatusCode::OK);
    assert!(
        within("the shutdown", ended).await.unwrap(),
        "all ended in time"
    );
    drop(idle);
}
