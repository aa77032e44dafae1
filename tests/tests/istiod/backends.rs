//! Whom routes lead to, as a real istiod says it: hosts of ServiceEntries, and pods with a sidecar.

use std::fs;

use http::StatusCode;
use waypoint_tests::istiod::{Istiod, Pod};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::tls_server::{Pair, Speech, TlsServer};
use waypoint_tests::wait::until;
use waypoint_tests::{App, Mesh, Ztunnel};

use crate::load::client;

/// A route of `web` with these rules.
fn route(mesh: &Mesh, rules: &str) {
    mesh.manifest(
        "route.yaml",
        &format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: default}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{rules}]}}\n"
        ),
    );
}

async fn started(mesh: &Mesh) -> (Istiod, Pod, Ztunnel) {
    let istiod = Istiod::start(mesh);
    let pod = Pod::start(mesh, &istiod, 240);
    pod.until_ready().await;
    istiod.until_synced().await;
    assert_eq!(http_get(pod.admin, "/problems").await.1, "");
    let client = client(mesh, &pod).await;
    (istiod, pod, client)
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_route_sends_and_mirrors_to_hosts_of_entries_whoever_serves_them() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(4, "web").await;
    let own = App::http(mesh.backend(1), "own").await;
    let _other = App::http(mesh.backend(2), "other").await;
    for (n, name, waypoint) in [(1, "own", "waypoint"), (2, "other", "none")] {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: {name}, namespace: default, labels: {{istio.io/use-waypoint: {waypoint}}}}}\n\
             spec: {{hosts: [{name}.outside.test], addresses: [{}], resolution: STATIC, endpoints: [{{address: {}}}], \
             ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]}}\n",
            mesh.vip(n).ip(),
            mesh.pod_ip(n)
        );
        mesh.manifest(&format!("{name}.yaml"), &text);
    }
    let host = |name: &str| {
        format!(
            "{{group: networking.istio.io, kind: Hostname, name: {name}.outside.test, port: 80}}"
        )
    };
    let mirror = format!(
        "{{type: RequestMirror, requestMirror: {{backendRef: {}}}}}",
        host("own")
    );
    let (to_own, to_other, to_nobody) = (host("own"), host("other"), host("nobody"));
    route(
        &mesh,
        &format!(
            "{{matches: [{{path: {{value: /own}}}}], backendRefs: [{to_own}]}}, \
             {{matches: [{{path: {{value: /nobody}}}}], backendRefs: [{to_nobody}]}}, \
             {{filters: [{mirror}], backendRefs: [{to_other}]}}"
        ),
    );
    let (_istiod, _pod, client) = started(&mesh).await;
    until("the host's own", async || {
        (client.get(web, "/own").await.header("x-app") == "own").then_some(())
    })
    .await;
    own.forget();
    assert_eq!(client.get(web, "/").await.header("x-app"), "other");
    until("the copy", async || (own.seen().len() == 1).then_some(())).await;
    let answer = client.get(web, "/nobody").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
}

/// Service `far` is served by no waypoint, and its pod has a sidecar.
fn with_a_sidecar(mesh: &Mesh) {
    for (file, from, to) in [
        (
            "service-far.yaml",
            "namespace: default",
            "namespace: default, labels: {istio.io/use-waypoint: none}",
        ),
        (
            "pod-far-1.yaml",
            "labels: {app: far,",
            "labels: {app: far, security.istio.io/tlsMode: istio,",
        ),
    ] {
        let text = fs::read_to_string(mesh.manifests().join(file)).unwrap();
        assert!(text.contains(from), "{text}");
        mesh.manifest(file, &text.replace(from, to));
    }
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn requests_reach_a_sidecar_by_mutual_tls() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let (_far, backend) = mesh.bare_service(2, "far");
    with_a_sidecar(&mesh);
    let certificate = mesh.certificate("default", "far");
    let pair = Pair {
        chain: certificate.chain_pem().to_owned(),
        key: certificate.key_pem().to_owned(),
    };
    let speech = Speech {
        alpn: &["istio-peer-exchange", "istio", "h2", "http/1.1"],
        clients: Some(fs::read_to_string(mesh.folder().join("ca/root-cert.pem")).unwrap()),
        ..Speech::default()
    };
    let sidecar = TlsServer::start(backend, &pair, speech).await;
    route(&mesh, "{backendRefs: [{name: far, port: 80}]}");
    let (_istiod, _pod, client) = started(&mesh).await;
    until("the sidecar", async || {
        client.get(web, "/a").await;
        sidecar.requests().contains(&"/a".to_owned()).then_some(())
    })
    .await;
    let greeted = sidecar.greeted().last().unwrap().clone();
    assert_eq!(greeted.alpn.as_deref(), Some("istio"));
    assert!(greeted.client.is_some());
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_sidecar_that_takes_no_mutual_tls_is_reached_in_plain_text() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let (_far, app) = mesh.http_service(2, "far").await;
    with_a_sidecar(&mesh);
    mesh.manifest(
        "policy.yaml",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: plain, namespace: default}\n\
         spec: {selector: {matchLabels: {app: far}}, mtls: {mode: DISABLE}}\n",
    );
    route(&mesh, "{backendRefs: [{name: far, port: 80}]}");
    let (_istiod, _pod, client) = started(&mesh).await;
    until("the application", async || {
        client.get(web, "/a").await;
        (!app.seen().is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn the_meshs_limits_are_for_services_that_are_not_the_waypoints() {
    let mesh = Mesh::new();
    let base = fs::read_to_string(mesh.manifests().join("base.yaml")).unwrap();
    let file = "accessLogFile: /dev/stdout";
    let limits = "defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}";
    mesh.manifest(
        "base.yaml",
        &base.replace(file, &format!("{file}\n    {limits}")),
    );
    mesh.http_service(1, "web").await;
    mesh.http_service(2, "far").await;
    let text = fs::read_to_string(mesh.manifests().join("service-far.yaml")).unwrap();
    let labelled = "namespace: default, labels: {istio.io/use-waypoint: none}";
    mesh.manifest(
        "service-far.yaml",
        &text.replace("namespace: default", labelled),
    );
    route(&mesh, "{backendRefs: [{name: far, port: 80}]}");
    let (_istiod, pod, _client) = started(&mesh).await;
    let limit = async |cluster: &str| {
        let text = http_get(pod.admin, "/clusters").await.1;
        let begins =
            format!("{cluster}.default.svc.cluster.local::default_priority::max_connections::");
        let mut lines = text.lines();
        lines.find_map(|line| Some(line.strip_prefix(&begins)?.to_owned()))
    };
    until("the mesh's limit", async || {
        (limit("outbound|80||far").await.as_deref() == Some("7")).then_some(())
    })
    .await;
    let own = limit("inbound-vip|80|http|web").await;
    assert!(own.is_some_and(|own| own != "7"));
}
