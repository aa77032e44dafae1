//! GRPCRoute: methods and headers and their precedence, header changes, weights, mirrors, parents, and gRPC's own errors.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{Answer, App, Mesh, Ztunnel};

/// A route of the service `shop`.
fn route(name: &str, parent: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  parentRefs: [{{{parent}}}]\n  rules:\n{rules}"
    )
}

const SHOP: &str = "group: '', kind: Service, name: shop, sectionName: grpc";

/// Service `shop` on a gRPC port, and services `cart` and `till` to route to.
async fn three(mesh: &Mesh) -> (SocketAddr, [App; 3]) {
    let mut apps = Vec::new();
    for (n, name) in [(1, "shop"), (2, "cart"), (3, "till")] {
        mesh.describe_pod(n, &format!("{name}-1"), name, false);
        apps.push(App::http(mesh.backend(n), name).await);
        mesh.service_with_port(n, name, "{name: grpc, port: 80, targetPort: 8080}");
    }
    (mesh.vip(1), apps.try_into().ok().unwrap())
}

async fn call(client: &Ztunnel, to: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let grpc = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("x-trailers", "yes"),
    ];
    let headers = [&grpc[..], headers].concat();
    let connection = client.http2(to).await;
    connection.send(request(Method::POST, path, &headers)).await
}

/// HTTP's status, and gRPC's, wherever it stands.
fn status(answer: &Answer) -> (u16, String) {
    let trailer = answer
        .trailers
        .as_ref()
        .and_then(|all| all.get("grpc-status"));
    let status = trailer.map(|status| status.to_str().unwrap().to_owned());
    (
        answer.status.as_u16(),
        status.unwrap_or_else(|| answer.header("grpc-status")),
    )
}

/// Path, headers, and who answers.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
);

#[tokio::test]
async fn every_match_and_its_precedence() {
    let mesh = Mesh::new();
    let (to, _apps) = three(&mesh).await;
    let rules = r#"
  - matches: [{headers: [{name: x-till, value: "[0-9]+", type: RegularExpression}]}]
    backendRefs: [{name: till, port: 80}]
  - matches: [{method: {service: shop.Cart}}]
    backendRefs: [{name: cart, port: 80}]
  - matches:
    - {method: {service: shop.Cart, method: Pay}}
    - {method: {service: shop.Cart, method: Get}, headers: [{name: x-v, value: "2"}]}
    backendRefs: [{name: till, port: 80}]
  - matches: [{method: {method: Ping}}]
    backendRefs: [{name: shop, port: 80}]
  - matches: [{method: {type: RegularExpression, service: 'bank\..*', method: "Put|Take"}}]
    backendRefs: [{name: till, port: 80}]
"#;
    mesh.manifest("route.yaml", &route("shop", SHOP, rules));
    let (waypoint, client) = mesh.started().await;
    let cases: &[Case] = &[
        ("/shop.Cart/Add", &[], "cart"),
        ("/shop.Cart/Pay", &[], "till"),
        ("/shop.Cart/Get", &[], "cart"),
        ("/shop.Cart/Get", &[("x-v", "2")], "till"),
        ("/shop.Cart/Get", &[("x-v", "2"), ("x-till", "1")], "till"),
        ("/shop.Cart/Ping", &[], "cart"),
        ("/any.Thing/Ping", &[], "shop"),
        ("/bank.Till/Put", &[], "till"),
        ("/bank.Till/Take", &[], "till"),
        ("/any.Thing/Else", &[("x-till", "7")], "till"),
    ];
    for (path, headers, app) in cases {
        let answer = call(&client, to, path, headers).await;
        assert_eq!(answer.header("x-app"), *app, "{path} {headers:?}");
        assert_eq!(status(&answer), (200, "0".to_owned()), "{path}");
    }
    // What no rule matches isn't implemented.
    let unimplemented = (200, "12".to_owned());
    for (path, headers) in [
        ("/shop.Carts/Get", &[][..]),
        ("/bank.Till/Puts", &[]),
        ("/bank/Put", &[]),
        ("/any.Thing/Pings", &[]),
        ("/any.Thing/Else", &[("x-till", "x")]),
    ] {
        let answer = call(&client, to, path, headers).await;
        assert_eq!(status(&answer), unimplemented, "{path} {headers:?}");
    }
    let line = waypoint.until_logged("/bank.Till/Puts").await;
    assert!(line.contains(" NR route_not_found "), "{line}");
    assert_eq!(waypoint.problems().await, "");
}

#[tokio::test]
async fn rules_change_headers_and_share_requests_out() {
    let mesh = Mesh::new();
    let (to, [shop, cart, till]) = three(&mesh).await;
    let rules = r#"
  - matches: [{method: {service: shop.Cart, method: Get}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-g, value: "1"}], remove: [x-gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-answered, value: "50%"}]}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: shop, port: 80}}}
    backendRefs:
    - {name: cart, port: 80, weight: 3}
    - {name: till, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-till, value: 'yes'}]}}]}
"#;
    mesh.manifest("route.yaml", &route("shop", SHOP, rules));
    let (_waypoint, client) = mesh.started().await;
    for _ in 0..40 {
        let answer = call(&client, to, "/shop.Cart/Get", &[("x-gone", "1")]).await;
        assert_eq!(status(&answer), (200, "0".to_owned()));
        assert_eq!(answer.header("x-answered"), "50%");
    }
    let (carts, tills) = (cart.seen(), till.seen());
    assert!(
        (20..40).contains(&carts.len()),
        "three of four: {}",
        carts.len()
    );
    assert_eq!(carts.len() + tills.len(), 40);
    for seen in carts.iter().chain(&tills) {
        assert_eq!(
            (seen.header("x-g").as_str(), seen.header("x-gone").as_str()),
            ("1", "")
        );
    }
    assert!(tills.iter().all(|seen| seen.header("x-till") == "yes"));
    until("a copy", async || shop.seen().pop()).await;
}

#[tokio::test]
async fn what_cannot_be_routed_is_an_error_of_grpc_for_its_own_rule() {
    let mesh = Mesh::new();
    let (to, _apps) = three(&mesh).await;
    let rules = r#"
  - matches: [{method: {service: a, method: Guarded}}]
    filters: [{type: ExtensionRef, extensionRef: {group: guard.example, kind: Guard, name: g}}]
    backendRefs: [{name: cart, port: 80}]
  - matches: [{method: {service: a, method: Nobody}}]
  - matches: [{method: {service: a, method: Gone}}]
    backendRefs: [{name: gone, port: 80}]
  - backendRefs: [{name: cart, port: 80}]
"#;
    mesh.manifest("route.yaml", &route("shop", SHOP, rules));
    let (waypoint, client) = mesh.started().await;
    for path in ["/a/Guarded", "/a/Nobody", "/a/Gone"] {
        let answer = call(&client, to, path, &[]).await;
        assert_eq!(status(&answer), (200, "2".to_owned()), "{path}");
    }
    assert_eq!(
        call(&client, to, "/a/Else", &[]).await.header("x-app"),
        "cart"
    );
    // Who doesn't ask as gRPC does gets HTTP's.
    let answer = client.get(to, "/a/Guarded").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    let problems = waypoint.problems().await;
    for part in [
        "GRPCRoute default/shop",
        "spec.rules[0].filters[0]",
        "no Service default/gone",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
}

#[tokio::test]
async fn a_service_entry_has_routes_too_and_they_change_while_it_serves() {
    let mesh = Mesh::new();
    let (_to, _apps) = three(&mesh).await;
    let to = mesh.vip(9);
    mesh.manifest(
        "entry.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: far, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}\n\
             spec:\n  hosts: [far.example]\n  addresses: [{}]\n  resolution: STATIC\n  location: MESH_INTERNAL\n\
             \x20 ports: [{{number: 80, name: grpc, protocol: GRPC, targetPort: 8080}}]\n  endpoints: [{{address: {}}}]\n",
            to.ip(),
            mesh.pod_ip(1)
        ),
    );
    let parent = "group: networking.istio.io, kind: ServiceEntry, name: far, port: 80";
    let of = |backend: &str| {
        let rule = "  - matches: [{method: {service: a}}]\n";
        format!("{rule}    backendRefs: [{{name: {backend}, port: 80}}]\n")
    };
    mesh.manifest("route.yaml", &route("far", parent, &of("cart")));
    let (_waypoint, client) = mesh.started().await;
    assert_eq!(
        call(&client, to, "/a/Get", &[]).await.header("x-app"),
        "cart"
    );
    mesh.manifest("route.yaml", &route("far", parent, &of("till")));
    until("the new route", async || {
        let answer = call(&client, to, "/a/Get", &[]).await;
        (answer.header("x-app") == "till").then_some(())
    })
    .await;
}
