//! What istiod is told of configuration that isn't honoured, and what becomes of the rest.

use std::time::Duration;

use http::StatusCode;
use waypoint_tests::Mesh;
use waypoint_tests::istiod::{CLUSTER, Istiod, LISTENER, Pod};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::until;

use crate::changes::policy;
use crate::load::{Load, client};

/// A filter that is refused: it would verify tokens by keys that are none.
const JWT: &str = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: jwt, namespace: default}\n\
    spec: {targetRefs: [{group: '', kind: Service, name: web}], jwtRules: [{issuer: me, jwks: '{\"keys\": []}'}]}\n";

#[tokio::test]
#[ignore = "needs istiod"]
async fn what_is_not_built_is_refused_by_name_and_the_last_good_version_stays() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (other, _) = mesh.http_service(2, "other").await;
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    let load = Load::start(&mesh, &pod, web).await;
    mesh.manifest("jwt.yaml", JWT);
    let problems = until("the refusal", async || {
        let (_, problems) = http_get(pod.admin, "/problems").await;
        problems.contains("jwt_authn").then_some(problems)
    })
    .await;
    assert!(
        problems.contains("inbound-vip|80|http|web.default.svc.cluster.local"),
        "{problems}"
    );
    istiod.until_nacked(LISTENER, "jwt_authn").await;
    // Others change meanwhile.
    mesh.manifest("policy.yaml", &policy("other", "action: DENY", "/denied"));
    let client = client(&mesh, &pod).await;
    until("another service's change", async || {
        (client.get(other, "/denied").await.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    // That one still isn't taken, and istiod still knows.
    tokio::time::sleep(Duration::from_millis(300)).await;
    istiod.until_nacked(LISTENER, "jwt_authn").await;
    assert!(load.finish().await > 20, "the last good version served on");
    mesh.remove_manifest("jwt.yaml");
    istiod.until_synced().await;
    assert_eq!(http_get(pod.admin, "/problems").await.1, "");
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_service_that_never_had_a_good_version_is_closed_and_holds_readiness_back() {
    let mesh = Mesh::new();
    let (web, app) = mesh.http_service(1, "web").await;
    let (other, _) = mesh.http_service(2, "other").await;
    mesh.manifest("jwt.yaml", JWT);
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_started().await;
    until("configuration", async || {
        http_get(pod.admin, "/problems")
            .await
            .1
            .contains("jwt_authn")
            .then_some(())
    })
    .await;
    let (status, reason) = http_get(pod.readiness, "/healthz/ready").await;
    assert_eq!(
        (status, reason.contains("/problems")),
        (503, true),
        "{reason}"
    );
    let client = client(&mesh, &pod).await;
    assert_eq!(
        client.get(web, "/").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert!(app.seen().is_empty());
    assert_eq!(client.get(other, "/").await.status, StatusCode::OK);
    // Others change: it stays refused, here and in istiod's view.
    mesh.manifest("policy.yaml", &policy("other", "action: DENY", "/denied"));
    until("another service's change", async || {
        (client.get(other, "/denied").await.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    istiod.until_nacked(LISTENER, "jwt_authn").await;
    let (_, problems) = http_get(pod.admin, "/problems").await;
    assert!(problems.contains("jwt_authn"), "{problems}");
    // It is corrected.
    mesh.remove_manifest("jwt.yaml");
    istiod.until_synced().await;
    pod.until_ready().await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
}

fn destination_rule(traffic_policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{host: web.default.svc.cluster.local, trafficPolicy: {{{traffic_policy}}}}}\n"
    )
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_refused_cluster_keeps_its_last_good_version_until_it_is_corrected() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    let load = Load::start(&mesh, &pod, web).await;
    let tls = "tls: {mode: SIMPLE, sni: no name}";
    mesh.manifest("rule.yaml", &destination_rule(tls));
    istiod.until_nacked(CLUSTER, "is no host name").await;
    let (_, problems) = http_get(pod.admin, "/problems").await;
    assert!(
        problems.starts_with("inbound-vip|80|http|web.default.svc.cluster.local: transport_socket"),
        "{problems}"
    );
    let timeout = "connectionPool: {tcp: {connectTimeout: 2s}}";
    mesh.manifest("rule.yaml", &destination_rule(timeout));
    istiod.until_synced().await;
    assert_eq!(http_get(pod.admin, "/problems").await.1, "");
    assert!(load.finish().await > 20);
}

const BACKEND_TLS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: web, namespace: default}\n\
    spec: {targetRefs: [{group: '', kind: Service, name: web}], validation: {wellKnownCACertificates: System, hostname: web.example.com}}\n";

#[tokio::test]
#[ignore = "needs istiod"]
async fn tls_that_a_backend_does_not_speak_fails_and_nothing_goes_in_the_clear() {
    for manifest in [
        &destination_rule("tls: {mode: SIMPLE, sni: web.example.com}"),
        BACKEND_TLS,
    ] {
        let mesh = Mesh::new();
        let (web, app) = mesh.http_service(1, "web").await;
        mesh.manifest("tls.yaml", manifest);
        let istiod = Istiod::start(&mesh);
        let pod = Pod::start(&mesh, &istiod, 240);
        pod.until_ready().await;
        istiod.until_synced().await;
        let client = client(&mesh, &pod).await;
        until("the service", async || {
            let (status, _) = client.connect_to(&web.to_string(), &[]).await.ok()?;
            (status == StatusCode::OK).then_some(())
        })
        .await;
        let answer = client.get(web, "/").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(app.seen().is_empty());
    }
}
