//! What of sound manifests doesn't do what it seems to, as a user of the running waypoint meets it and is told of it.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use tokio::io::AsyncWriteExt as _;
use waypoint_tests::{App, Mesh, logs, wait};

/// A connection that is closed ends the wait before.
const PATIENCE: Duration = Duration::from_secs(30);

/// A policy for the service `web`.
fn policy(action: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], action: {action}, rules: [{rule}]}}\n"
    )
}

#[tokio::test]
async fn a_deny_of_a_method_closes_a_port_without_http_and_is_told() {
    logs::record();
    let mesh = Mesh::new();
    mesh.describe_pod(1, "web-1", "web", false);
    let address = SocketAddr::new(mesh.pod_ip(1), 8080);
    App::tcp(address, |mut tcp| async move {
        let _ = tcp.write_all(b"hello").await;
    })
    .await;
    let vip = mesh.service_with_port(1, "web", "{name: tcp, port: 80, targetPort: 8080}");
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    assert_eq!(waypoint.problems().await, "");
    let said = client.exchange_until_quiet(vip, b"x", PATIENCE).await.0;
    assert_eq!(said, "hello");

    mesh.manifest(
        "policy.yaml",
        &policy("DENY", "{to: [{operation: {methods: [DELETE]}}]}"),
    );
    let line = "AuthorizationPolicy default/p (no effect): spec.rules[0].to[0].operation.methods: \
                nothing but HTTP has this: on other connections it is left out, and the rule denies everything (default/web port 80)";
    waypoint.until_problem(line).await;
    logs::until_line(&["WARN", line]).await;
    let said = client.exchange_until_quiet(vip, b"x", PATIENCE).await.0;
    assert_eq!(said, "");
}

#[tokio::test]
async fn a_rule_for_identities_that_nobody_checks_is_told() {
    let mesh = Mesh::new();
    let (vip, _app) = mesh.http_service(1, "web").await;
    mesh.manifest(
        "policy.yaml",
        &policy("ALLOW", "{from: [{source: {requestPrincipals: ['*']}}]}"),
    );
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    assert_eq!(client.get(vip, "/").await.status, StatusCode::FORBIDDEN);
    let problems = waypoint.problems().await;
    assert_eq!(problems.lines().count(), 1, "{problems}");
    assert!(
        problems
            .contains("spec.rules[0].from[0].source.requestPrincipals: no RequestAuthentication")
            && problems.ends_with("the rule never matches\n"),
        "{problems}"
    );
}

#[tokio::test]
async fn what_drains_and_what_is_for_others_is_told_quietly() {
    logs::record();
    let mesh = Mesh::new();
    let (vip, _app) = mesh.http_service(1, "web").await;
    // Nobody listens there: a request that went to it would fail.
    mesh.manifest(
        "second.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web-2, namespace: default, labels: {{app: web, istio.io/draining: 'true'}}}}\n\
             status: {{podIP: {}, conditions: [{{type: Ready, status: 'True'}}]}}\n",
            mesh.pod_ip(2)
        ),
    );
    mesh.manifest(
        "strict.yaml",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: strict, namespace: istio-system}\nspec: {mtls: {mode: STRICT}}\n",
    );
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    for _ in 0..8 {
        assert_eq!(client.get(vip, "/").await.status, StatusCode::OK);
    }
    let expected = [
        "PeerAuthentication (not for this waypoint): ztunnel enforces it; a waypoint takes nothing but mutual TLS: istio-system/strict",
        "Pod (not for this waypoint): with the label istio.io/draining it takes no requests: default/web-2",
    ];
    let problems = waypoint.problems().await;
    assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
    for line in expected {
        logs::until_line(&["INFO", line]).await;
    }

    // `serving` decides nothing: the endpoint is taken, and that is told.
    mesh.manifest(
        "slice.yaml",
        &format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [{}], conditions: {{serving: false}}}}]\n",
            mesh.pod_ip(1)
        ),
    );
    let problems = waypoint
        .until_problem("endpoints[0].conditions.serving: says nothing")
        .await;
    assert!(problems.contains("slice.yaml document 1: EndpointSlice default/web-1 (no effect)"));
    assert_eq!(client.get(vip, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_the_api_server_would_refuse_changes_nothing_or_closes() {
    let mesh = Mesh::new();
    let (vip, _app) = mesh.http_service(1, "web").await;
    mesh.manifest(
        "policy.yaml",
        &policy("DENY", "{to: [{operation: {paths: [/secret]}}]}"),
    );
    let route = |path: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: default}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [\n\
             {{matches: [{{path: {{value: '{path}'}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{statusCode: 301, hostname: moved.test}}}}]}},\n\
             {{backendRefs: [{{name: web, port: 80}}]}}]}}\n"
        )
    };
    mesh.manifest("route.yaml", &route("/moved"));
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let as_before = async || {
        assert_eq!(client.get(vip, "/").await.status, StatusCode::OK);
        assert_eq!(
            client.get(vip, "/secret").await.status,
            StatusCode::FORBIDDEN
        );
        let moved = client.get(vip, "/moved").await.status;
        assert_eq!(moved, StatusCode::MOVED_PERMANENTLY);
    };
    assert_eq!(waypoint.problems().await, "");
    as_before().await;

    // Routes and policies stand as they did.
    mesh.manifest("route.yaml", &route("/moved|away"));
    waypoint
        .until_problem("spec.rules[0].matches[0].path.value: \"/moved|away\" has characters")
        .await;
    as_before().await;
    let two_ways = policy("DENY", "{}").replace(
        "targetRefs: [{group: '', kind: Service, name: web}]",
        "selector: {}, targetRefs: []",
    );
    mesh.manifest("policy.yaml", &two_ways);
    waypoint
        .until_problem("spec.targetRefs: only one of targetRefs and selector may be given")
        .await;
    as_before().await;

    // Whose target can be told is closed.
    mesh.manifest("route.yaml", &route("/moved"));
    mesh.manifest(
        "policy.yaml",
        &policy("DENY", "{to: [{operation: {paths: [/secret]}}]}"),
    );
    mesh.manifest(
        "tokens.yaml",
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: jwt, namespace: default}\n\
         spec: {selector: {}, targetRefs: [{group: '', kind: Service, name: web}]}\n",
    );
    waypoint
        .until_problem("RequestAuthentication default/jwt (broken, closed what it targets): spec.targetRefs: only one of")
        .await;
    let answer = client.get(vip, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        answer
            .text()
            .contains("closed by RequestAuthentication default/jwt"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn what_istiod_would_write_of_a_routes_parents_is_on_problems_where_it_is_not_well() {
    let mesh = Mesh::new();
    let (_, _app) = mesh.http_service(1, "web").await;
    let route = |parent: &str, backend: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: default}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: {parent}}}], rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]}}\n"
        )
    };
    mesh.manifest("route.yaml", &route("web", "nobody"));
    let waypoint = mesh.start().await;
    let problems = waypoint.problems().await;
    let line = "HTTPRoute default/r: parent Service default/web: ResolvedRefs=False (BackendNotFound): \
                backend(nobody.default.svc.cluster.local) not found\n";
    assert!(problems.contains(line), "{problems}");
    assert!(!problems.contains("Accepted=False"), "{problems}");
    mesh.manifest("route.yaml", &route("no-service", "web"));
    waypoint
        .until_problem("HTTPRoute default/r: parent Service default/no-service: Accepted=False (NoMatchingParent): ")
        .await;
    mesh.manifest("route.yaml", &route("web", "web"));
    wait::until("the end of the problems", async || {
        waypoint.problems().await.is_empty().then_some(())
    })
    .await;
}
