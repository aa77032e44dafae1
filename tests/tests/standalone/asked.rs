//! CUSTOM policies in a folder: the extension providers of MeshConfig are asked about requests and connections.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use waypoint_tests::ext_authz::{Authorizer, HttpAuthorizer, HttpReply, check};
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh, Waypoint, Ztunnel};

/// `PERMISSION_DENIED` of gRPC.
const DENIED: i32 = 7;

fn settings(provider: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
         data: {{mesh: \"extensionProviders: [{{name: ask, {provider}}}]\"}}\n"
    )
}

fn custom(rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], action: CUSTOM, provider: {{name: ask}}, rules: [{rule}]}}\n"
    )
}

const LOGIN: &str = "{to: [{operation: {paths: [/login]}}]}";
const GRPC: &str = "envoyExtAuthzGrpc: {service: authz.default.svc.cluster.local, port: 80";

/// Describes the service `authz`; where its pod listens.
fn authz(mesh: &Mesh, port: &str) -> SocketAddr {
    mesh.describe_pod(2, "authz-1", "authz", false);
    let port = format!("{{name: {port}, port: 80, targetPort: 8080}}");
    mesh.service_with_port(2, "authz", &port);
    mesh.backend(2)
}

async fn started(mesh: &Mesh, rule: &str) -> (Waypoint, Ztunnel) {
    mesh.manifest("policy.yaml", &custom(rule));
    let (waypoint, client) = mesh.started().await;
    let problems = waypoint.problems().await;
    let of_policy = problems.lines().filter(|line| line.contains("Policy"));
    assert_eq!(of_policy.collect::<Vec<_>>(), [""; 0]);
    (waypoint, client)
}

#[tokio::test]
async fn who_is_asked_over_grpc_decides_about_what_the_rules_match() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let asked = Authorizer::start(authz(&mesh, "grpc")).await;
    mesh.manifest("settings.yaml", &settings(&format!("{GRPC}}}")));
    let (waypoint, client) = started(&mesh, LOGIN).await;
    assert_eq!(client.get(to, "/login").await.status, StatusCode::OK);
    assert_eq!(asked.take().len(), 1);
    asked.says(check(DENIED));
    app.forget();
    assert_eq!(client.get(to, "/login").await.status, StatusCode::FORBIDDEN);
    assert!(app.seen().is_empty());
    assert_eq!(asked.take().len(), 1);
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    assert!(asked.take().is_empty(), "only what a rule matches");

    // Its service is gone: nobody can be asked, and what the rules match is denied.
    mesh.remove_manifest("service-authz.yaml");
    waypoint
        .until_problem("AuthorizationPolicy default/p (closed what it targets): spec.provider.name: the provider \"ask\"")
        .await;
    until("the denial", async || {
        let status = client.get(to, "/login").await.status;
        (status == StatusCode::FORBIDDEN && asked.take().is_empty()).then_some(())
    })
    .await;
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn who_is_asked_over_http_is_told_and_tells() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let asked = HttpAuthorizer::start(authz(&mesh, "http")).await;
    mesh.manifest(
        "settings.yaml",
        &settings(
            "envoyExtAuthzHttp: {service: default/authz.default.svc.cluster.local, port: 80, pathPrefix: /check, \
             includeRequestHeadersInCheck: [x-user], includeAdditionalHeadersInCheck: {x-from: waypoint}, \
             headersToUpstreamOnAllow: ['x-auth-*'], headersToDownstreamOnDeny: [x-why]}",
        ),
    );
    let (_waypoint, client) = started(&mesh, LOGIN).await;
    asked.replies(HttpReply::new(
        200,
        &[("x-auth-id", "7"), ("x-other", "8")],
        "",
    ));
    let login = || {
        request(
            Method::GET,
            "/login",
            &[("x-user", "ana"), ("x-more", "no")],
        )
    };
    assert_eq!(client.request(to, login()).await.status, StatusCode::OK);
    let told = asked.take();
    assert_eq!(told[0].target, "/check/login");
    assert_eq!(told[0].header("x-user"), "ana");
    assert_eq!(told[0].header("x-from"), "waypoint");
    assert_eq!(told[0].header("x-more"), "");
    let seen = &app.seen()[0];
    assert_eq!(
        (seen.header("x-auth-id"), seen.header("x-other")),
        ("7".to_owned(), String::new())
    );

    asked.replies(HttpReply::new(418, &[("x-why", "so")], "no tea"));
    let denied = client.request(to, login()).await;
    assert_eq!(denied.status, StatusCode::IM_A_TEAPOT);
    assert_eq!(denied.text(), "no tea");
    assert_eq!(denied.headers["x-why"], "so");
}

#[tokio::test]
async fn connections_are_asked_about_as_well() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_tcp_service(1, "web");
    App::tcp(backend, |mut tcp| async move {
        let _ = tcp.write_all(b"hello").await;
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let asked = Authorizer::start(authz(&mesh, "grpc")).await;
    mesh.manifest("settings.yaml", &settings(&format!("{GRPC}}}")));
    let (_waypoint, client) = started(&mesh, "{}").await;
    let mut stream = client.tunnel(to).await;
    let mut greeting = [0; 5];
    within("the greeting", stream.read_exact(&mut greeting))
        .await
        .unwrap();
    assert_eq!(&greeting, b"hello");
    assert_eq!(asked.take().len(), 1);
    asked.says(check(DENIED));
    let mut stream = client.tunnel(to).await;
    let mut nothing = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut nothing)).await;
    assert_eq!(nothing, b"");
    assert_eq!(asked.take().len(), 1);
}

#[tokio::test]
async fn where_nobody_answers_the_settings_decide() {
    for (more, status) in [
        ("", StatusCode::FORBIDDEN),
        (", statusOnError: '502'", StatusCode::BAD_GATEWAY),
        (", failOpen: true", StatusCode::OK),
    ] {
        let mesh = Mesh::new();
        let (to, _) = mesh.http_service(1, "web").await;
        // Nothing listens there.
        authz(&mesh, "grpc");
        mesh.manifest("settings.yaml", &settings(&format!("{GRPC}{more}}}")));
        let (_waypoint, client) = started(&mesh, LOGIN).await;
        assert_eq!(client.get(to, "/login").await.status, status, "{more}");
        assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    }
}
