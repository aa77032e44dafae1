//! Paths, header values and precedence of HTTPRoutes: Envoy, given the same resources, gives the Gateway
//! API's answers, and so does the waypoint.

use http::StatusCode;
use waypoint_tests::Mesh;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::ztunnel::{Ztunnel, get};

/// Prefix, replacement, and paths with what the Gateway API makes of them.
type Replacement = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const TABLE: &[Replacement] = &[
    (
        "/foo",
        "/xyz",
        &[
            ("/foo", "/xyz"),
            ("/foo/", "/xyz/"),
            ("/foo/bar", "/xyz/bar"),
            ("/foo/bar/", "/xyz/bar/"),
        ],
    ),
    (
        "/foo/",
        "/xyz/",
        &[
            ("/foo", "/xyz"),
            ("/foo/", "/xyz/"),
            ("/foo/bar", "/xyz/bar"),
        ],
    ),
    (
        "/foo",
        "/",
        &[("/foo", "/"), ("/foo/", "/"), ("/foo/bar", "/bar")],
    ),
    (
        "/foo/",
        "",
        &[("/foo", "/"), ("/foo/", "/"), ("/foo/bar/", "/bar/")],
    ),
    (
        "/",
        "/foo",
        &[("/", "/foo/"), ("/x", "/foo/x"), ("/x/", "/foo/x/")],
    ),
    ("/", "/foo/", &[("/", "/foo/"), ("/x/y", "/foo/x/y")]),
    ("/", "/", &[("/", "/"), ("/x", "/x"), ("/x/", "/x/")]),
    ("/", "", &[("/", "/"), ("/x/y", "/x/y")]),
    ("/a.b", "/", &[("/a.b", "/"), ("/a.b/c", "/c")]),
];

fn route(prefix: &str, filter: &str, backend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: default}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]\n  rules:\n  - matches: [{{path: {{value: {prefix}}}}}]\n    filters: [{filter}]\n{backend}"
    )
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn paths_are_replaced_as_the_gateway_api_says() {
    for (prefix, replacement, paths) in TABLE {
        let path =
            format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: '{replacement}'}}");
        let rewrite = format!("{{type: URLRewrite, urlRewrite: {{{path}}}}}");
        let redirect =
            format!("{{type: RequestRedirect, requestRedirect: {{hostname: h.example, {path}}}}}");
        for (filter, backend) in [
            (rewrite, "    backendRefs: [{name: web, port: 80}]\n"),
            (redirect, ""),
        ] {
            let mesh = Mesh::new();
            let (to, app) = mesh.http_service(1, "web").await;
            mesh.manifest("route.yaml", &route(prefix, &filter, backend));
            let waypoint = mesh.start().await;
            let (_envoy, address) = Envoy::beside(&mesh, &mesh.resources()).await;
            let certificate = mesh.certificate("default", "curl");
            for (name, address) in [("waypoint", waypoint.address()), ("envoy", address)] {
                let ztunnel = Ztunnel::connect(address, &certificate).await.unwrap();
                for (path, expected) in *paths {
                    for query in ["", "?q=/foo"] {
                        let case = format!("{name}: {prefix} to {replacement:?}: {path}{query}");
                        app.forget();
                        let answer = ztunnel.get(to, &format!("{path}{query}")).await;
                        let found = if backend.is_empty() {
                            assert_eq!(answer.status, StatusCode::FOUND, "{case}");
                            let location = answer.header("location");
                            // The port is the chain's, and 80 goes without saying.
                            location.replace("http://h.example", "")
                        } else {
                            assert_eq!(answer.status, StatusCode::OK, "{case}");
                            app.seen()[0].target.clone()
                        };
                        assert_eq!(found, format!("{expected}{query}"), "{case}");
                    }
                }
            }
        }
    }
}

const RULES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {value: /discount}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-value, value: "50% of %PROTOCOL%"}]}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: RegularExpression, value: "/item/[0-9]+"}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-value, value: expression}]}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-value, value: root}]}}]
    backendRefs: [{name: web, port: 80}]
"#;

#[tokio::test]
#[ignore = "needs Envoy"]
async fn values_are_texts_and_the_root_comes_last() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest("route.yaml", RULES);
    let waypoint = mesh.start().await;
    let (_envoy, address) = Envoy::beside(&mesh, &mesh.resources()).await;
    let certificate = mesh.certificate("default", "curl");
    for (name, address) in [("waypoint", waypoint.address()), ("envoy", address)] {
        let ztunnel = Ztunnel::connect(address, &certificate).await.unwrap();
        for (path, expected) in [
            ("/discount", "50% of %PROTOCOL%"),
            ("/item/7", "expression"),
            ("/item/x", "root"),
            ("/", "root"),
        ] {
            app.forget();
            let answer = ztunnel.request(to, get(path)).await;
            assert_eq!(answer.status, StatusCode::OK, "{name} {path}");
            assert_eq!(app.seen()[0].headers["x-value"], expected, "{name} {path}");
        }
    }
}
