//! ReferenceGrants on disk: a backend in another namespace needs one where the user asks for that.

use http::StatusCode;
use waypoint_tests::wait::until;
use waypoint_tests::{App, Mesh};

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: default}\n\
    spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: far, namespace: other, port: 80}]}]}\n";

fn grant(kind: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: other}}\n\
         spec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: default}}], to: [{{group: '', kind: Service, name: far}}]}}\n"
    )
}

/// Service `far` in the namespace `other`, and who is behind it.
async fn far(mesh: &Mesh) {
    App::http(mesh.backend(2), "far").await;
    describe_far(mesh);
}

fn describe_far(mesh: &Mesh) {
    mesh.manifest(
        "far.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: far, namespace: other}}\n\
             spec: {{clusterIP: {}, ports: [{{name: http, port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: far, namespace: other, labels: {{kubernetes.io/service-name: far}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [{}]}}]\n",
            mesh.vip(2).ip(),
            mesh.pod_ip(2)
        ),
    );
}

#[tokio::test]
async fn a_host_of_another_namespaces_service_needs_the_services_grant() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    far(&mesh).await;
    let by_host =
        "{group: networking.istio.io, kind: Hostname, name: far.other.svc.cluster.local, port: 80}";
    let by_name = "{name: far, namespace: other, port: 80}";
    mesh.manifest("route.yaml", &ROUTE.replace(by_name, by_host));
    mesh.annotates_gateway("waypoint/reference-grants: required");
    let (waypoint, client) = mesh.started().await;
    let answer = client.get(to, "/").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    let problems = waypoint.problems().await;
    assert!(
        problems.contains("have Service other/far as a backend"),
        "{problems}"
    );
    mesh.manifest("grant.yaml", &grant("HTTPRoute"));
    until("the grant", async || {
        let answer = client.get(to, "/").await;
        (answer.header("x-app") == "far").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_backend_of_another_namespace_needs_a_grant_where_that_is_asked_for() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    far(&mesh).await;
    mesh.manifest("route.yaml", ROUTE);
    mesh.manifest("grant.yaml", &grant("GRPCRoute"));
    let (waypoint, client) = mesh.started().await;
    let answer = client.get(to, "/").await;
    assert_eq!(answer.header("x-app"), "far", "as with istiod");

    mesh.annotates_gateway("waypoint/reference-grants: required");
    let problems = waypoint
        .until_problem("HTTPRoute default/web (no effect): spec.rules[0].backendRefs[0]: ")
        .await;
    let reason = "no ReferenceGrant in \"other\" lets a HTTPRoute of \"default\" have Service other/far as a backend: its requests are answered 500";
    assert!(problems.contains(reason), "{problems}");
    let answer = client.get(to, "/").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);

    mesh.manifest("grant.yaml", &grant("HTTPRoute"));
    until("the grant", async || {
        let answer = client.get(to, "/").await;
        (answer.header("x-app") == "far").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_route_of_connections_needs_a_grant_of_its_own_kind() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_tcp_service(1, "web");
    let says = |name: &'static str| {
        move |mut tcp: tokio::net::TcpStream| async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, name.as_bytes()).await;
        }
    };
    App::tcp(backend, says("web")).await;
    App::tcp(mesh.backend(2), says("far")).await;
    describe_far(&mesh);
    mesh.manifest(
        "route.yaml",
        &ROUTE
            .replace("/v1\n", "/v1alpha2\n")
            .replace("HTTPRoute", "TCPRoute"),
    );
    mesh.manifest("grant.yaml", &grant("HTTPRoute"));
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.exchange(to, b"").await.0, "far", "as with istiod");

    mesh.annotates_gateway("waypoint/reference-grants: required");
    let problems = waypoint
        .until_problem("TCPRoute default/web (no effect): spec.rules[0].backendRefs[0]: ")
        .await;
    let reason = "no ReferenceGrant in \"other\" lets a TCPRoute of \"default\" have Service other/far as a backend";
    assert!(problems.contains(reason), "{problems}");
    assert_eq!(client.exchange(to, b"").await.0, "", "closed");

    mesh.manifest("grant.yaml", &grant("TCPRoute"));
    until("the grant", async || {
        (client.exchange(to, b"").await.0 == "far").then_some(())
    })
    .await;
}
