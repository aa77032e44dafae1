//! One value that can't be honoured costs its rule, its header or its field of the log, and nothing beside it.

use http::{Method, StatusCode};
use waypoint_tests::Mesh;
use waypoint_tests::ztunnel::{get, request};

const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {value: /discount}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-discount, value: "50%"}], add: [{name: x-kind, value: "%PROTOCOL%"}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-left, value: "100% of %REQ(a)%"}]}}
    backendRefs: [{name: web, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: "a%20b"}]}}]}]
  - matches: [{path: {value: /mirrored}}]
    backendRefs: [{name: web, port: 80, filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}}}]}]
  - matches: [{path: {value: /plugin}}]
    filters: [{type: ExtensionRef, extensionRef: {group: extensions.example, kind: Plugin, name: p}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /old}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/a\q'}}}]
    backendRefs: [{name: web, port: 80}]
  - backendRefs: [{name: web, port: 80}]
"#;

#[tokio::test]
async fn a_rule_that_is_not_honoured_costs_its_own_requests() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest("route.yaml", ROUTES);
    let (waypoint, client) = mesh.started().await;
    let status = async |path: &str| client.get(to, path).await.status;
    assert_eq!(status("/").await, StatusCode::OK);
    for path in ["/mirrored", "/plugin"] {
        assert_eq!(status(path).await, StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(app.seen().len(), 1, "they got past the filter");
    let problems = waypoint.problems().await;
    for part in [
        "HTTPRoute default/web",
        "spec.rules[1]",
        "RequestMirror",
        "spec.rules[2]",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
    let closed = [("state", "closed")];
    assert_eq!(
        waypoint.metric("waypoint_filter_chains", &closed).await,
        0.0
    );
    waypoint.until_logged("/mirrored").await;
}

#[tokio::test]
async fn a_value_is_the_text_that_its_author_wrote() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest("route.yaml", ROUTES);
    let (_waypoint, client) = mesh.started().await;
    let answer = client
        .request(to, request(Method::GET, "/discount", &[("a", "b")]))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("x-left"), "100% of %REQ(a)%");
    let seen = app.seen();
    assert_eq!(seen[0].header("x-discount"), "50%");
    assert_eq!(seen[0].header("x-kind"), "%PROTOCOL%");
    assert_eq!(seen[0].header("x-backend"), "a%20b");
}

#[tokio::test]
async fn an_operator_that_nobody_knows_costs_its_field() {
    for (encoding, format, expected) in [
        (
            "TEXT",
            r#""who=%NOPE(x)% %PROTOCOL% 5% %REQ(:PATH)%""#,
            "who=- HTTP/1.1 5% /log",
        ),
        (
            "JSON",
            r#""{\"who\": \"%NOPE%\", \"path\": \"%REQ(:PATH)%\", \"state\": \"%CEL(1 + )%\"}""#,
            r#"{"path":"/log","state":null,"who":null}"#,
        ),
    ] {
        let mesh = Mesh::new();
        let (to, _app) = mesh.http_service(1, "web").await;
        let base = std::fs::read_to_string(mesh.manifests().join("base.yaml")).unwrap();
        let file = "accessLogFile: /dev/stdout";
        let settings =
            format!("{file}\n    accessLogEncoding: {encoding}\n    accessLogFormat: {format}");
        mesh.manifest("base.yaml", &base.replace(file, &settings));
        let (waypoint, client) = mesh.started().await;
        assert_eq!(client.request(to, get("/log")).await.status, StatusCode::OK);
        assert_eq!(waypoint.until_logged("/log").await, expected);
        let problems = waypoint.problems().await;
        assert!(problems.contains("unknown operator %NOPE%"), "{problems}");
        let kind = [("kind", "access_log")];
        assert!(waypoint.metric("waypoint_config_omitted", &kind).await >= 1.0);
    }
}
