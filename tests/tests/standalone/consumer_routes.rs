//! Consumer routes on disk: a route in the namespace of clients is for those clients, and for nobody else.

use http::{Method, StatusCode};
use waypoint_tests::Mesh;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::request;

/// Of the namespace `other`, for the service `web` of `default`.
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: ours, namespace: other}\n\
    spec:\n  parentRefs: [{group: '', kind: Service, name: web, namespace: default}]\n  rules:\n  \
    - matches: [{path: {value: /shop}}]\n    \
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-ours, value: 'yes'}]}}]\n    \
    backendRefs: [{name: web, namespace: default, port: 80}]\n";

#[tokio::test]
async fn a_route_of_the_clients_namespace_is_for_those_clients_alone() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest("route.yaml", ROUTE);
    let (waypoint, theirs) = mesh.started().await;
    let ours = mesh.client(&waypoint, "other", "curl").await;
    waypoint
        .until_problem("HTTPRoute other/ours (no effect): spec.parentRefs[0]: ")
        .await;
    let asked = |path: &str| request(Method::GET, path, &[("host", "web"), ("x-ours", "?")]);
    let answer = ours.request(to, asked("/other")).await;
    assert_eq!(answer.status, StatusCode::OK, "it has no effect");

    mesh.annotates_gateway("waypoint/consumer-routes: enabled");
    until("the route is for its clients", async || {
        let answer = ours.request(to, asked("/other")).await;
        (answer.status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    assert_eq!(waypoint.problems().await, "");
    let seen = async |client: &waypoint_tests::Ztunnel| {
        let answer = client.request(to, asked("/shop/x")).await;
        assert_eq!(answer.status, StatusCode::OK);
        app.last().header("x-ours")
    };
    assert_eq!(seen(&ours).await, "yes");
    assert_eq!(seen(&theirs).await, "?");
    let answer = theirs.request(to, asked("/other")).await;
    assert_eq!(answer.status, StatusCode::OK);

    // A route of the service's own is for the others.
    mesh.manifest(
        "own.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: own, namespace: default}\n\
         spec:\n  parentRefs: [{group: '', kind: Service, name: web}]\n  rules:\n  \
         - matches: [{path: {value: /other}}]\n    backendRefs: [{name: web, port: 80}]\n",
    );
    until("the service's own route", async || {
        let answer = theirs.request(to, asked("/shop")).await;
        (answer.status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    let answer = theirs.request(to, asked("/other")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(seen(&ours).await, "yes");
    let answer = ours.request(to, asked("/other")).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "they have no others");

    mesh.remove_manifest("route.yaml");
    until("the service's route is for all", async || {
        let answer = ours.request(to, asked("/other")).await;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
}
