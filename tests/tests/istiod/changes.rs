//! Endpoints, routes, policies and services change while requests run: not one fails.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use waypoint_tests::istiod::{Istiod, Pod};
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::wait::until;
use waypoint_tests::{App, Mesh};

use crate::load::{Load, client};

/// All of service `web` to this one.
pub(crate) fn route(to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: web, port: 80}}], rules: [{{backendRefs: [{{name: {to}, port: 80}}]}}]}}\n"
    )
}

/// A policy on a service, of some paths.
pub(crate) fn policy(service: &str, action: &str, paths: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: {service}}}], {action}, rules: [{{to: [{{operation: {{paths: [{paths}]}}}}]}}]}}\n"
    )
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn routes_policies_and_services_come_and_go() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (_, a) = mesh.http_service(2, "a").await;
    let (_, b, _) = mesh.captured_service(3, "b").await;
    mesh.manifest("route.yaml", &route("a"));
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    let load = Load::start(&mesh, &pod, web).await;
    for target in ["b", "a", "b"] {
        let app = if target == "a" { &a } else { &b };
        app.forget();
        mesh.manifest("route.yaml", &route(target));
        until("traffic at the new target", async || {
            (app.seen().len() > 20).then_some(())
        })
        .await;
    }
    // A policy comes and goes.
    let client = client(&mesh, &pod).await;
    mesh.manifest("policy.yaml", &policy("web", "action: DENY", "/denied"));
    until("the denial", async || {
        (client.get(web, "/denied").await.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    mesh.remove_manifest("policy.yaml");
    until("its end", async || {
        (client.get(web, "/denied").await.status == StatusCode::OK).then_some(())
    })
    .await;
    // A service comes: as soon as it is owned it answers; and goes.
    let (late, _) = mesh.http_service(4, "late").await;
    until("the new service", async || {
        let (status, _) = client.connect_to(&late.to_string(), &[]).await.ok()?;
        (status == StatusCode::OK).then_some(())
    })
    .await;
    // istiod may have sent the service before it knew its endpoints.
    until("its endpoints", async || {
        (client.get(late, "/").await.status == StatusCode::OK).then_some(())
    })
    .await;
    mesh.remove_manifest("service-late.yaml");
    until("its end", async || {
        let (status, _) = client.connect_to(&late.to_string(), &[]).await.ok()?;
        (status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    assert!(load.finish().await > 100);
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn endpoints_are_scaled_up_and_down() {
    let mesh = Mesh::new();
    let (web, first) = mesh.http_service(1, "web").await;
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    let load = Load::start(&mesh, &pod, web).await;
    // Up: one plain pod more, one with a ztunnel.
    let at = |n: u8| mesh.backend(n);
    let second = App::http(at(2), "web").await;
    let third = App::http(at(3), "web").await;
    let certificate = mesh.certificate("default", "web");
    let ztunnel = PodZtunnel::start(mesh.pod_ip(3), &certificate).await;
    mesh.describe_pod(2, "web-2", "web", false);
    mesh.describe_pod(3, "web-3", "web", true);
    until("traffic at all three", async || {
        let all = [&first, &second, &third];
        all.iter().all(|app| app.seen().len() > 5).then_some(())
    })
    .await;
    assert!(!ztunnel.connects().is_empty());
    // One isn't ready any more, one is gone: they get nothing, the third gets all.
    let described = mesh.manifests().join("pod-web-2.yaml");
    let ready = fs::read_to_string(described).unwrap();
    mesh.manifest("pod-web-2.yaml", &ready.replace("'True'", "'False'"));
    mesh.remove_manifest("pod-web-1.yaml");
    until("silence at two", async || {
        first.forget();
        second.forget();
        tokio::time::sleep(Duration::from_millis(200)).await;
        (first.seen().is_empty() && second.seen().is_empty()).then_some(())
    })
    .await;
    // Ready again.
    mesh.manifest("pod-web-2.yaml", &ready);
    until("traffic at the second", async || {
        (second.seen().len() > 5).then_some(())
    })
    .await;
    assert!(load.finish().await > 100);
    istiod.until_synced().await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_policy_is_replaced_without_a_gap() {
    let mesh = Mesh::new();
    let (web, app) = mesh.http_service(1, "web").await;
    mesh.manifest(
        "policy.yaml",
        &policy("web", "action: DENY", "/one, /always"),
    );
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    let allowed = Load::start(&mesh, &pod, web).await;
    let denied = Load::of(&mesh, &pod, web, "/always", StatusCode::FORBIDDEN).await;
    let client = client(&mesh, &pod).await;
    let status = async |path: &str| client.get(web, path).await.status.as_u16();
    assert_eq!([status("/one").await, status("/two").await], [403, 200]);
    for (action, paths, expected) in [
        ("action: DENY", "/two, /always", [200, 403]),
        ("action: ALLOW", "/one, /load", [200, 403]),
        ("action: ALLOW", "/two, /load", [403, 200]),
        ("action: DENY", "/one, /two, /always", [403, 403]),
    ] {
        mesh.manifest("policy.yaml", &policy("web", action, paths));
        until(paths, async || {
            ([status("/one").await, status("/two").await] == expected).then_some(())
        })
        .await;
    }
    assert!(allowed.finish().await > 50 && denied.finish().await > 50);
    assert!(app.seen().iter().all(|seen| seen.target != "/always"));
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_service_gets_another_port_and_loses_it() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    let load = Load::start(&mesh, &pod, web).await;
    let client = client(&mesh, &pod).await;
    let more = SocketAddr::new(web.ip(), 81);
    let granted = async || {
        let answer = client.connect_to(&more.to_string(), &[]).await;
        answer.unwrap().0.as_u16()
    };
    assert_eq!(granted().await, 404);
    let port = "{name: http, port: 80, targetPort: 8080}";
    let two = format!("{port}, {{name: more, port: 81, targetPort: 8080, appProtocol: http}}");
    mesh.service_with_port(1, "web", &two);
    until("the port", async || {
        if granted().await != 200 {
            return None;
        }
        (client.get(more, "/").await.status == StatusCode::OK).then_some(())
    })
    .await;
    mesh.service_with_port(1, "web", port);
    until("its end", async || (granted().await == 404).then_some(())).await;
    assert!(load.finish().await > 50);
    istiod.until_synced().await;
}

const VIRTUAL_SERVICE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: default}\n\
    spec: {hosts: [web.default.svc.cluster.local], http: [{route: [{destination: {host: web.default.svc.cluster.local, subset: v1}, headers: {response: {set: {x-routed: 'yes'}}}}]}]}\n";
const DESTINATION_RULE: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: web, namespace: default}\n\
    spec: {host: web.default.svc.cluster.local, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 2s}}}, subsets: [{name: v1, labels: {version: v1}}]}\n";

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_virtual_service_and_its_subsets_come_and_go() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    let load = Load::start(&mesh, &pod, web).await;
    let client = client(&mesh, &pod).await;
    // The subset first, as everybody has to.
    mesh.manifest("rule.yaml", DESTINATION_RULE);
    until("the subset", async || {
        let subset = "inbound-vip|80|http/v1|web.default.svc.cluster.local";
        istiod.config_dump().await.contains(subset).then_some(())
    })
    .await;
    mesh.manifest("route.yaml", VIRTUAL_SERVICE);
    until("the route", async || {
        (client.get(web, "/").await.header("x-routed") == "yes").then_some(())
    })
    .await;
    mesh.remove_manifest("route.yaml");
    until("its end", async || {
        client
            .get(web, "/")
            .await
            .header("x-routed")
            .is_empty()
            .then_some(())
    })
    .await;
    mesh.remove_manifest("rule.yaml");
    istiod.until_synced().await;
    assert!(load.finish().await > 50);
}
