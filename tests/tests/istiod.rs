//! A real istiod configures and certifies the waypoint's pod. `make test-istiod` runs these.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use waypoint_tests::istiod::{Istiod, Pod};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{Http1, get, request};
use waypoint_tests::{Mesh, Ztunnel};

fn route(to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: web, port: 80}}], rules: [{{matches: [{{path: {{type: PathPrefix, value: /}}}}], backendRefs: [{{group: '', kind: Service, name: {to}, port: 80, weight: 1}}]}}]}}\n"
    )
}

const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\n\
    spec: {targetRefs: [{group: '', kind: Service, name: web}], action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]}\n";

async fn client(mesh: &Mesh, pod: &Pod) -> Ztunnel {
    Ztunnel::connect(pod.hbone, &mesh.certificate("default", "curl"))
        .await
        .unwrap()
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn the_pod_is_configured_certified_and_seen_as_synced() {
    let mesh = Mesh::new();
    let (web, _, ztunnel) = mesh.captured_service(1, "web").await;
    let (plain, _) = mesh.http_service(2, "plain").await;
    mesh.manifest("policy.yaml", POLICY);
    let istiod = Istiod::start(&mesh);
    let mut pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;

    let client = client(&mesh, &pod).await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    assert_eq!(ztunnel.connects().len(), 1, "over HBONE");
    assert_eq!(client.get(plain, "/").await.status, StatusCode::OK);
    let denied = client.get(web, "/denied").await;
    assert_eq!(
        (denied.status, denied.text().as_str()),
        (StatusCode::FORBIDDEN, "RBAC: access denied")
    );
    let labels = [
        ("reporter", "waypoint"),
        ("destination_workload", "web-1"),
        ("destination_service", "web.default.svc.cluster.local"),
        ("response_code", "200"),
    ];
    until("the request's metric", async || {
        (pod.metric("istio_requests_total", &labels).await == 1.0).then_some(())
    })
    .await;

    until("SYNCED", async || {
        let status = istiod.syncz().await;
        let pod = status
            .as_array()?
            .iter()
            .find(|p| p["proxy"] == "waypoint-0.default")?;
        let all = ["cluster", "listener", "endpoint"].iter().all(|kind| {
            let (sent, acked) = (&pod[format!("{kind}_sent")], &pod[format!("{kind}_acked")]);
            sent.is_string() && sent == acked
        });
        all.then_some(())
    })
    .await;
    assert_eq!(pod.terminate().await, Some(0));
}

/// Requests without a pause until told to stop; every one must be answered 200.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn start(mesh: &Mesh, pod: &Pod, to: SocketAddr) -> Load {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let client = client(mesh, pod).await;
            let mut connection: Http1 = client.http1(to).await;
            let (stop, sent) = (stop.clone(), sent.clone());
            tasks.push(tokio::spawn(async move {
                let _client = client;
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.send(get("/load")).await;
                    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
                    sent.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }));
        }
        Load { stop, sent, tasks }
    }

    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.sent.load(Ordering::Relaxed)
    }
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn changes_under_load_lose_no_request() {
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
    mesh.manifest("policy.yaml", POLICY);
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
async fn istiod_goes_and_comes_back() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    mesh.http_service(2, "a").await;
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    let load = Load::start(&mesh, &pod, web).await;
    drop(istiod);
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Meanwhile: a route appears, and a service goes.
    mesh.manifest("route.yaml", &route("a"));
    let (late, _) = mesh.http_service(3, "late").await;
    let _istiod = Istiod::start(&mesh);
    let client = client(&mesh, &pod).await;
    until("what changed meanwhile", async || {
        (client.get(web, "/").await.header("x-app") == "a").then_some(())
    })
    .await;
    until("the new service", async || {
        let (status, _) = client.connect_to(&late.to_string(), &[]).await.ok()?;
        (status == StatusCode::OK && client.get(late, "/").await.status == StatusCode::OK)
            .then_some(())
    })
    .await;
    assert!(
        pod.metric("waypoint_xds_streams_total", &[("state", "opened")])
            .await
            >= 2.0
    );
    assert!(load.finish().await > 50);
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_pod_can_be_replaced_under_load() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = Istiod::start(&mesh);
    let mut old = Pod::start(&mesh, &istiod, 240);
    let new = Pod::start(&mesh, &istiod, 241);
    old.until_ready().await;
    new.until_ready().await;
    let through_new = Load::start(&mesh, &new, web).await;
    // What runs in the old one is finished, though it is told to end in the middle.
    let client = client(&mesh, &old).await;
    let mut connection = client.http1(web).await;
    let slow = request(Method::GET, "/slow", &[("x-delay-ms", "800")]);
    let slow = tokio::spawn(async move { connection.send(slow).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(old.terminate().await, Some(0));
    assert_eq!(slow.await.unwrap().status, StatusCode::OK);
    assert!(through_new.finish().await > 50);
}

/// A filter that isn't built: JWT.
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
    // The NACK: istiod knows that this listener was not taken.
    until("the NACK", async || {
        let status = istiod.syncz().await;
        let pod = status
            .as_array()?
            .iter()
            .find(|p| p["proxy"] == "waypoint-0.default")?;
        (pod["listener_sent"] != pod["listener_acked"]).then_some(())
    })
    .await;
    // Others change meanwhile.
    mesh.manifest("policy.yaml", &POLICY.replace("name: web", "name: other"));
    let client = client(&mesh, &pod).await;
    until("another service's change", async || {
        (client.get(other, "/denied").await.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    assert!(load.finish().await > 20, "the last good version served on");
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
    until("configuration", async || {
        let _ = tokio::net::TcpStream::connect(pod.readiness).await.ok()?;
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
}
