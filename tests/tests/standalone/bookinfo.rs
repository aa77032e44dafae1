//! The walkthrough: a split, a policy, a client that may and one that may not; readiness, log and metrics.

use http::{Method, StatusCode};
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::telemetry::{http_get, http_request};
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh};

const ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews, port: 80}]
  rules:
  - backendRefs:
    - {name: reviews-v1, port: 80, weight: 90}
    - {name: reviews-v2, port: 80, weight: 10}
"#;

const POLICY: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: viewer, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]
  action: ALLOW
  rules:
  - from: [{source: {namespaces: [default, istio-system]}}]
    to: [{operation: {methods: [GET]}}]
"#;

async fn reviews(mesh: &Mesh) -> (std::net::SocketAddr, App, App) {
    let (_, v1) = mesh.http_service(1, "reviews-v1").await;
    let (_, v2, _) = mesh.captured_service(2, "reviews-v2").await;
    let reviews = mesh.service(3, "reviews");
    mesh.manifest("route.yaml", ROUTE);
    (reviews, v1, v2)
}

#[tokio::test]
async fn nine_of_ten_requests_go_to_the_first_version() {
    let mesh = Mesh::new();
    let (to, v1, v2) = reviews(&mesh).await;
    let (waypoint, curl) = mesh.started().await;
    let mut connection = curl.http1(to).await;
    for n in 0..400 {
        let answer = connection
            .send(request(Method::GET, &format!("/{n}"), &[]))
            .await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    let (first, second) = (v1.seen().len(), v2.seen().len());
    assert_eq!(first + second, 400);
    assert!((10..=70).contains(&second), "40 expected: {second}");
    waypoint
        .until_metric(
            "istio_requests_total",
            &[("destination_workload", "reviews-v2-1")],
            second as f64,
        )
        .await;
}

#[tokio::test]
async fn who_may_look_may_not_write_and_the_stranger_may_do_nothing() {
    let mesh = Mesh::new();
    let (to, v1, v2) = reviews(&mesh).await;
    mesh.manifest("policy.yaml", POLICY);
    let (waypoint, curl) = mesh.started().await;
    let stranger = mesh.client(&waypoint, "other", "stranger").await;

    assert_eq!(curl.get(to, "/reviews/1").await.status, StatusCode::OK);
    let denied = curl
        .request(to, request(Method::POST, "/reviews/1", &[]))
        .await;
    assert_eq!(
        (denied.status, denied.text().as_str()),
        (StatusCode::FORBIDDEN, "RBAC: access denied")
    );
    let denied = stranger.get(to, "/stranger").await;
    assert_eq!(
        (denied.status, denied.text().as_str()),
        (StatusCode::FORBIDDEN, "RBAC: access denied")
    );
    assert_eq!(
        v1.seen().len() + v2.seen().len(),
        1,
        "nothing denied reached an application"
    );

    let line = waypoint.until_logged("/stranger").await;
    assert!(line.contains(" 403 "), "{line}");
    assert!(
        line.contains("rbac_access_denied_matched_policy[none]"),
        "{line}"
    );
    let denied = [
        ("reporter", "waypoint"),
        ("response_code", "403"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/other/sa/stranger",
        ),
        ("destination_service_namespace", "default"),
    ];
    waypoint
        .until_metric("istio_requests_total", &denied, 1.0)
        .await;
}

#[tokio::test]
async fn readiness_and_metrics_have_their_ports_and_paths() {
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    assert_eq!(
        http_get(waypoint.running.readiness_addr, "/healthz/ready")
            .await
            .0,
        200
    );
    assert_eq!(
        http_get(waypoint.running.readiness_addr, "/other").await.0,
        404
    );
    assert_eq!(
        http_get(waypoint.running.stats_addr, "/stats/prometheus")
            .await
            .0,
        200
    );
    let (status, info) = http_get(waypoint.running.admin_addr, "/certs").await;
    assert_eq!(status, 200);
    assert!(
        info.contains("spiffe://cluster.local/ns/default/sa/waypoint"),
        "{info}"
    );
    let (_, stats) = http_get(waypoint.running.admin_addr, "/stats").await;
    assert!(stats.contains("server.state: 0\n"), "{stats}");
    assert_eq!(
        http_get(waypoint.running.stats_addr, "/healthz/ready")
            .await
            .0,
        200
    );
    assert!(waypoint.running.shutdown().await);
}

#[tokio::test]
async fn somebody_in_the_pod_may_ask_for_the_end() {
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    let stats = waypoint.running.stats_addr;
    let (status, ..) = http_request(stats, "GET", "/quitquitquit").await;
    assert_eq!(status, 405);
    let (status, ..) = http_request(stats, "POST", "/quitquitquit").await;
    assert_eq!(status, 200);
    waypoint_tests::wait::within("the request for the end", waypoint.running.asked_to_quit()).await;
    assert!(waypoint.running.shutdown().await);
}

/// The manifests of the repository as they stand, with the story's own pod addresses.
#[tokio::test]
async fn the_example_of_the_repository() {
    let mesh = Mesh::new();
    mesh.remove_manifest("base.yaml");
    let net = mesh.pod_ip(0).to_string();
    let net = net.strip_suffix('0').unwrap();
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/bookinfo");
    for entry in std::fs::read_dir(example).unwrap() {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let name = entry.file_name().into_string().unwrap();
        mesh.manifest(&name, &text.replace("127.10.0.", net));
    }
    let mut apps = Vec::new();
    for (pod, name, captured) in [
        (1, "productpage", false),
        (2, "details", false),
        (3, "ratings", true),
        (4, "reviews-v1", true),
        (5, "reviews-v2", false),
        (6, "reviews-v3", true),
    ] {
        let address = mesh.pod_ip(pod);
        let account = name.split('-').next().unwrap();
        let certificate = mesh.certificate("default", &format!("bookinfo-{account}"));
        let ztunnel = match captured {
            true => Some(PodZtunnel::start(address, &certificate).await),
            false => None,
        };
        let app = App::http(std::net::SocketAddr::new(address, 9080), name).await;
        apps.push((app, ztunnel));
    }
    let waypoint = mesh.start().await;
    let vip = |n: u8| std::net::SocketAddr::from(([10, 96, 0, n], 9080));
    let curl = mesh.client(&waypoint, "default", "curl").await;
    let istio = mesh.client(&waypoint, "istio-system", "ingress").await;
    let stranger = mesh.client(&waypoint, "other", "stranger").await;
    for (n, app) in [(1, "productpage"), (2, "details"), (3, "ratings")] {
        for client in [&curl, &istio] {
            let answer = client.get(vip(n), "/").await;
            assert_eq!(
                (answer.status, answer.text()),
                (StatusCode::OK, format!("{app}\n"))
            );
        }
        assert_eq!(
            stranger.get(vip(n), "/").await.status,
            StatusCode::FORBIDDEN
        );
    }
    let mut connection = curl.http1(vip(4)).await;
    let mut second = 0;
    for n in 0..200 {
        let answer = connection
            .send(request(Method::GET, &format!("/reviews/{n}"), &[]))
            .await;
        assert_eq!(answer.status, StatusCode::OK);
        second += usize::from(answer.header("x-app") == "reviews-v2");
    }
    assert!((4..=45).contains(&second), "20 expected: {second}");
    assert_eq!(apps[4].0.seen().len(), second);
    assert!(apps[5].0.seen().is_empty(), "v3 has no share");
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let answer = curl
            .request(vip(4), request(method.clone(), "/reviews/1", &[]))
            .await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method}");
        assert_eq!(answer.text(), "RBAC: access denied");
    }
    assert_eq!(waypoint.problems().await, "");
}
