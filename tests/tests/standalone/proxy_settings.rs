//! ProxyConfig from manifests: limits of connections, headers, and the Gateway's annotations.

use http::StatusCode;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{Mesh, Recorder};

/// Says something in MeshConfig's `defaultConfig`, and in the Gateway's annotations.
fn say(mesh: &Mesh, default_config: &str, annotations: &str) {
    let path = mesh.manifests().join("base.yaml");
    let base = std::fs::read_to_string(path).unwrap();
    let file = "accessLogFile: /dev/stdout";
    let said = base
        .replace(
            file,
            &format!("{file}\n    defaultConfig: {{{default_config}}}"),
        )
        .replace(
            "metadata: {name: waypoint, ",
            &format!("metadata: {{name: waypoint, annotations: {{{annotations}}}, "),
        );
    mesh.manifest("base.yaml", &said);
}

#[tokio::test]
async fn headers_are_added_as_proxy_headers_say() {
    let mesh = Mesh::new();
    say(
        &mesh,
        "proxyHeaders: {server: {value: mine}, requestId: {disabled: true}, xForwardedPort: {enabled: true}, envoyDebugHeaders: {disabled: true}}",
        "",
    );
    let (to, app) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await.trim(), "");
    let answer = client.get(to, "/").await;
    assert_eq!(answer.header("server"), "mine");
    assert_eq!(answer.header("x-envoy-upstream-service-time"), "");
    let seen = app.last();
    assert_eq!(seen.header("x-request-id"), "");
    assert_eq!(seen.header("x-forwarded-port"), "80");
    assert_eq!(seen.header("x-envoy-expected-rq-timeout-ms"), "");
}

#[tokio::test]
async fn the_upstreams_server_is_kept_where_no_other_is_wanted() {
    let mesh = Mesh::new();
    say(&mesh, "proxyHeaders: {server: {disabled: true}}", "");
    let (to, _app) = mesh.http_service(1, "web").await;
    let (_waypoint, client) = mesh.started().await;
    let theirs = [("x-answer-header", "server=theirs")];
    let theirs = waypoint_tests::ztunnel::request(http::Method::GET, "/", &theirs);
    let answer = client.request(to, theirs).await;
    assert_eq!(answer.header("server"), "theirs");
    assert_eq!(client.get(to, "/").await.header("server"), "");
}

#[tokio::test]
async fn names_of_headers_keep_their_case() {
    let mesh = Mesh::new();
    say(&mesh, "proxyHeaders: {preserveHttp1HeaderCase: true}", "");
    let (to, backend) = mesh.bare_service(1, "web");
    let recorder = Recorder::start(backend).await;
    let (_waypoint, client) = mesh.started().await;
    let request = b"GET / HTTP/1.1\r\nHost: web\r\nX-OLD-App: 1\r\n\r\n";
    let answer = client.raw(to, request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = String::from_utf8(recorder.connections().concat()).unwrap();
    assert!(
        seen.contains("\r\nX-OLD-App: 1\r\n") && seen.contains("\r\nHost: web\r\n"),
        "{seen}"
    );
}

#[tokio::test]
async fn http_10_is_taken_where_the_meshs_metadata_says_so() {
    let old = b"GET / HTTP/1.0\r\nHost: web\r\n\r\n";
    for (settings, annotations, begins) in [
        ("", "", "HTTP/1.0 426"),
        (
            "proxyMetadata: {ISTIO_META_HTTP10: '1'}",
            "",
            "HTTP/1.0 200",
        ),
        (
            "proxyMetadata: {ISTIO_META_HTTP10: '0'}",
            "",
            "HTTP/1.0 426",
        ),
        (
            "proxyMetadata: {ISTIO_META_HTTP10: '1'}",
            "proxy.istio.io/config: '{proxyMetadata: {ISTIO_META_HTTP10: \"0\"}}'",
            "HTTP/1.0 426",
        ),
    ] {
        let mesh = Mesh::new();
        say(&mesh, settings, annotations);
        let (to, _app) = mesh.http_service(1, "web").await;
        let (waypoint, client) = mesh.started().await;
        let answer = client.raw(to, old).await;
        assert!(answer.starts_with(begins), "{settings}: {answer}");
        assert_eq!(waypoint.problems().await, "");
    }
}

#[tokio::test]
async fn a_connection_lives_as_long_as_connection_settings_say() {
    let mesh = Mesh::new();
    // What the Gateway's pods are annotated with stands above the mesh's.
    say(
        &mesh,
        "connectionSettings: {httpMaxConnectionDuration: 1h, httpDrainTimeout: 30s, httpHeadersWithUnderscoresAction: HEADERS_WITH_UNDERSCORES_REJECT_REQUEST}",
        "proxy.istio.io/config: 'connectionSettings: {httpMaxConnectionDuration: 300ms}'",
    );
    let (to, _app) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await.trim(), "");
    let mut http1 = client.http1(to).await;
    assert_eq!(http1.send(get("/")).await.header("connection"), "");
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert_eq!(http1.send(get("/")).await.header("connection"), "close");
    assert!(http1.is_over().await);
    let under = b"GET / HTTP/1.1\r\nhost: web\r\na_b: c\r\n\r\n";
    assert!(client.raw(to, under).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn applications_are_told_who_the_client_is_where_an_annotation_asks_for_it() {
    let mesh = Mesh::new();
    say(
        &mesh,
        "",
        "ambient.istio.io/xfcc-include-client-identity: 'true'",
    );
    let (to, app) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await.trim(), "");
    let lie = [(
        "x-forwarded-client-cert",
        "URI=spiffe://cluster.local/ns/default/sa/admin",
    )];
    let lie = waypoint_tests::ztunnel::request(http::Method::GET, "/", &lie);
    assert_eq!(client.request(to, lie).await.status, StatusCode::OK);
    let right = "By=spiffe://cluster.local/ns/default/sa/waypoint;URI=spiffe://cluster.local/ns/default/sa/curl";
    assert_eq!(app.last().header("x-forwarded-client-cert"), right);
}

#[tokio::test]
async fn what_a_waypoint_does_not_read_is_named() {
    let mesh = Mesh::new();
    say(
        &mesh,
        "connectionSettings: {profile: EDGE}, proxyHeaders: {attemptCount: {disabled: true}}",
        "proxy.istio.io/config: 'connectionSettings: {httpIdleTimeout: soon}'",
    );
    let (_to, _app) = mesh.http_service(1, "web").await;
    let (waypoint, _client) = mesh.started().await;
    let problems = waypoint.problems().await;
    for part in [
        "data.mesh.defaultConfig.connectionSettings.profile",
        "data.mesh.defaultConfig.proxyHeaders.attemptCount",
        "connectionSettings.httpIdleTimeout",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
}

#[tokio::test]
async fn calls_of_browsers_reach_grpc() {
    let mesh = Mesh::new();
    let (to, _application) = waypoint_tests::grpc_web::Application::start(&mesh).await;
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await.trim(), "");
    let text = "application/grpc-web-text";
    let call = http::Request::builder()
        .method(http::Method::POST)
        .uri("/a.B/Echo")
        .header("host", "web")
        .header("content-type", text)
        .header("accept", text)
        .body("AAAAAAJoaQ==".to_owned().into())
        .unwrap();
    let answer = client.request(to, call).await;
    assert_eq!(
        answer.header("content-type"),
        "application/grpc-web-text+proto"
    );
    let trailers = "gAAAACJncnBjLXN0YXR1czowDQpncnBjLW1lc3NhZ2U6ZmluZQ0K";
    assert_eq!(answer.text(), format!("AAAAAAJoaQ=={trailers}"));
}
