//! Whom an AuthorizationPolicy holds for: services, the whole waypoint, targets in other forms, connections that are open.

use http::{Method, StatusCode};
use waypoint_tests::Mesh;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{get, request};

use super::authorization::{policy, scene};

#[tokio::test]
async fn an_open_connection_feels_a_new_policy_at_its_next_request() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);
    mesh.manifest(
        "policy.yaml",
        &policy("p", "web", ", action: DENY, rules: [{}]"),
    );
    until("the denial", async || {
        (connection.send(get("/")).await.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    mesh.remove_manifest("policy.yaml");
    until("the way back", async || {
        (connection.send(get("/")).await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_policy_of_one_service_leaves_the_others_alone() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (other, _) = mesh.http_service(2, "shop").await;
    mesh.manifest(
        "policy.yaml",
        &policy("p", "web", ", action: DENY, rules: [{}]"),
    );
    let (_waypoint, client) = mesh.started().await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::FORBIDDEN);
    assert_eq!(client.get(other, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn policies_of_the_waypoint_hold_for_every_service_and_pod() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (shop, app, _ztunnel) = mesh.captured_service(2, "shop").await;
    mesh.manifest(
        "gateway.yaml",
        &policy(
            "all",
            "waypoint",
            ", action: DENY, rules: [{to: [{operation: {methods: [DELETE]}}]}]",
        ),
    );
    mesh.manifest(
        "service.yaml",
        &policy(
            "web",
            "web",
            ", rules: [{to: [{operation: {methods: [GET, DELETE]}}]}]",
        ),
    );
    let (_waypoint, client) = mesh.started().await;
    let pod = mesh.backend(2);
    for (to, method, status) in [
        (web, Method::GET, 200),
        (web, Method::POST, 403),
        (web, Method::DELETE, 403),
        (shop, Method::POST, 200),
        (shop, Method::DELETE, 403),
        (pod, Method::GET, 200),
        (pod, Method::DELETE, 403),
    ] {
        let answer = client.request(to, request(method.clone(), "/", &[])).await;
        assert_eq!(answer.status.as_u16(), status, "{to} {method}");
    }
    assert!(app.seen().iter().all(|seen| seen.method != Method::DELETE));
}

#[tokio::test]
async fn a_target_in_another_form_is_the_same_target() {
    let scene = scene(&[policy(
        "p",
        "web",
        ", action: DENY, rules: [{to: [{operation: {paths: ['/admin*']}}]}, {to: [{operation: {hosts: [secret.example]}}]}]",
    )])
    .await;
    for (line, host) in [
        ("GET http://web/admin", "web"),
        ("GET HTTP://web/x/../admin", "web"),
        ("GET http://web/admin?q", "web"),
        ("GET \\admin", "web"),
        ("GET /x\\..\\admin", "web"),
        ("GET /x/..\\admin", "web"),
        ("GET http://secret.example/", "web"),
        ("GET http://SECRET.example/", "web"),
        ("GET /", "secret.example"),
        ("get /admin", "web"),
        ("HEAD /admin", "web"),
    ] {
        scene.app.forget();
        let raw = format!("{line} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = scene.friend.raw(scene.to, raw.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or("none").to_owned();
        assert!(
            ["403", "400", "none"].contains(&status.as_str()),
            "{line}: {answer}"
        );
        assert!(scene.app.seen().is_empty(), "{line} {host}");
    }
    // CONNECT in a tunnel is no way out.
    let raw = "CONNECT 10.0.0.1:80 HTTP/1.1\r\nhost: 10.0.0.1:80\r\n\r\n";
    let answer = scene.friend.raw(scene.to, raw.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn the_mesh_may_ask_for_more_normalization() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let base = std::fs::read_to_string(mesh.manifests().join("base.yaml")).unwrap();
    let strict = "accessLogFile: /dev/stdout\n    pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}";
    mesh.manifest(
        "base.yaml",
        &base.replace("accessLogFile: /dev/stdout", strict),
    );
    mesh.manifest(
        "policy.yaml",
        &policy(
            "p",
            "web",
            ", action: DENY, rules: [{to: [{operation: {paths: ['/admin/*']}}]}]",
        ),
    );
    let (_waypoint, client) = mesh.started().await;
    for path in [
        "//admin/x",
        "/admin%2Fx",
        "/admin%2fx",
        "/admin%5Cx",
        "/y%2f..%2fadmin/x",
    ] {
        assert_eq!(
            client.get(to, path).await.status,
            StatusCode::FORBIDDEN,
            "{path}"
        );
    }
    assert!(app.seen().is_empty());
    client.get(to, "//a%2Fb///c").await;
    assert_eq!(app.last().target, "/a/b/c");
}

#[tokio::test]
async fn every_stream_of_an_open_http2_connection_feels_a_new_policy() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (_waypoint, client) = mesh.started().await;
    let connection = client.http2(to).await;
    assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);
    // What runs already is finished.
    let running = connection.clone();
    let slow = tokio::spawn(async move {
        running
            .send(request(Method::GET, "/slow", &[("x-delay-ms", "700")]))
            .await
    });
    until("the slow request", async || {
        app.seen().iter().any(|s| s.target == "/slow").then_some(())
    })
    .await;
    mesh.manifest("policy.yaml", &policy("p", "web", ""));
    until("the denial", async || {
        (connection.send(get("/")).await.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    assert_eq!(slow.await.unwrap().status, StatusCode::OK);
}
