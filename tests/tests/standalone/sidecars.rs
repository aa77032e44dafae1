//! Pods with a sidecar: over HBONE where they take it; behind a service of others by Istio's mutual TLS, as between sidecars.

use std::fs;
use std::net::SocketAddr;

use http::StatusCode;
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::tls_server::{Pair, Speech, TlsServer};
use waypoint_tests::wait::until;
use waypoint_tests::{App, Mesh};

/// What a sidecar's port lets its clients choose from, in its order.
const OF_SIDECARS: &[&str] = &["istio-peer-exchange", "istio", "h2", "http/1.1"];

/// Service `far` that no waypoint serves, with a pod that has a sidecar.
async fn far(mesh: &Mesh, account: &str, echo: bool) -> TlsServer {
    describe_far(mesh, if echo { "tcp" } else { "http" });
    let own = mesh.certificate("default", account);
    let pair = Pair {
        chain: own.chain_pem().to_owned(),
        key: own.key_pem().to_owned(),
    };
    let speech = Speech {
        alpn: OF_SIDECARS,
        clients: Some(fs::read_to_string(mesh.folder().join("ca/root-cert.pem")).unwrap()),
        echo,
        ..Speech::default()
    };
    TlsServer::start(mesh.backend(2), &pair, speech).await
}

fn describe_far(mesh: &Mesh, port: &str) {
    let port = format!("{{name: {port}, port: 80, targetPort: 8080}}");
    mesh.service_with_port(2, "far", &port);
    let change = |file: &str, from: &str, to: &str| {
        let text = fs::read_to_string(mesh.manifests().join(file)).unwrap();
        assert!(text.contains(from), "{text}");
        mesh.manifest(file, &text.replace(from, to));
    };
    change(
        "service-far.yaml",
        "namespace: default",
        "namespace: default, labels: {istio.io/use-waypoint: none}",
    );
    mesh.describe_pod(2, "far-1", "far", false);
    let labels = "labels: {app: far, security.istio.io/tlsMode: istio,";
    change("pod-far-1.yaml", "labels: {app: far,", labels);
}

fn http_route(mesh: &Mesh) {
    mesh.manifest(
        "route.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: default}\n\
         spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: far, port: 80}]}]}\n",
    );
}

#[tokio::test]
async fn a_sidecar_that_takes_hbone_is_reached_over_it() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let file = mesh.manifests().join("pod-web-1.yaml");
    let text = fs::read_to_string(file).unwrap();
    let labels =
        "labels: {app: web, networking.istio.io/tunnel: http, security.istio.io/tlsMode: istio,";
    mesh.manifest(
        "pod-web-1.yaml",
        &text.replace("labels: {app: web,", labels),
    );
    let sidecar = PodZtunnel::start(mesh.pod_ip(1), &mesh.certificate("default", "web")).await;
    let (_waypoint, client) = mesh.started().await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    assert_eq!(sidecar.connects()[0].authority, mesh.backend(1).to_string());
}

#[tokio::test]
async fn a_sidecar_of_an_own_service_is_reached_in_plain_text() {
    let mesh = Mesh::new();
    let (web, app) = mesh.http_service(1, "web").await;
    let file = mesh.manifests().join("pod-web-1.yaml");
    let text = fs::read_to_string(file).unwrap();
    let labels = "labels: {app: web, security.istio.io/tlsMode: istio,";
    mesh.manifest(
        "pod-web-1.yaml",
        &text.replace("labels: {app: web,", labels),
    );
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    assert_eq!(app.seen().len(), 1);
    assert_eq!(waypoint.problems().await, "");
}

#[tokio::test]
async fn requests_reach_a_sidecar_by_mutual_tls() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let sidecar = far(&mesh, "far", false).await;
    http_route(&mesh);
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.get(web, "/a").await.status, StatusCode::OK);
    let greeted = sidecar.greeted();
    assert_eq!(greeted[0].alpn.as_deref(), Some("istio"));
    let sni = "outbound_.80_._.far.default.svc.cluster.local";
    assert_eq!(greeted[0].sni.as_deref(), Some(sni));
    assert!(greeted[0].client.is_some());
    assert_eq!(sidecar.requests(), ["/a"]);
    assert_eq!(waypoint.problems().await, "");
}

#[tokio::test]
async fn a_sidecar_of_another_account_is_nobody() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let sidecar = far(&mesh, "somebody", false).await;
    http_route(&mesh);
    let (_waypoint, client) = mesh.started().await;
    let answer = client.get(web, "/a").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(sidecar.requests().is_empty());
}

#[tokio::test]
async fn connections_reach_a_sidecar_and_nothing_else_is_said_on_them() {
    let mesh = Mesh::new();
    let (web, _backend): (SocketAddr, _) = mesh.bare_tcp_service(1, "web");
    let sidecar = far(&mesh, "far", true).await;
    mesh.manifest(
        "route.yaml",
        "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: web, namespace: default}\n\
         spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: far, port: 80}]}]}\n",
    );
    let (_waypoint, client) = mesh.started().await;
    let (answer, _) = client.exchange(web, b"hello").await;
    assert_eq!(answer, "hello");
    assert_eq!(sidecar.greeted()[0].alpn.as_deref(), Some("istio"));
}

#[tokio::test]
async fn a_sidecar_that_takes_no_mutual_tls_is_reached_in_plain_text() {
    let off = |of: &str, namespace: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: plain, namespace: {namespace}}}\nspec: {{{of}}}\n"
        )
    };
    let selector = "selector: {matchLabels: {app: far}}";
    for policy in [
        off("mtls: {mode: DISABLE}", "istio-system"),
        off("mtls: {mode: DISABLE}", "default"),
        off(&format!("{selector}, mtls: {{mode: DISABLE}}"), "default"),
        off(
            &format!("{selector}, portLevelMtls: {{8080: {{mode: DISABLE}}}}"),
            "default",
        ),
    ] {
        let mesh = Mesh::new();
        let (web, _app) = mesh.http_service(1, "web").await;
        describe_far(&mesh, "http");
        let app = App::http(mesh.backend(2), "far").await;
        http_route(&mesh);
        let (waypoint, client) = mesh.started().await;
        let answer = client.get(web, "/tls").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        mesh.manifest("policy.yaml", &policy);
        until("plain text", async || {
            let answer = client.get(web, "/plain").await;
            (answer.header("x-app") == "far").then_some(())
        })
        .await;
        assert_eq!(app.last().target, "/plain", "{policy}");
        assert_eq!(waypoint.problems().await, "", "{policy}");
    }
}
