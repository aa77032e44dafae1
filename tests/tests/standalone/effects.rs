//! What of the manifests has no effect, as a user of the running waypoint is told of it: in the log at the start,
//! on `/problems`, and after a change.

use http::StatusCode;
use waypoint_tests::wait::until;
use waypoint_tests::{App, Mesh, logs};

/// A route in whose parent somebody forgot `group: ""`.
fn route(name: &str, group: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{parentRefs: [{{{group}kind: Service, name: web}}], rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{statusCode: 301, hostname: moved.test}}}}]}}]}}\n"
    )
}

#[tokio::test]
async fn what_has_no_effect_is_told_at_the_start_and_after_a_change() {
    logs::record();
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    mesh.manifest("route.yaml", &route("forgetful", ""));
    mesh.manifest(
        "bare.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bare, namespace: default}\nspec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n",
    );
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let place = mesh.manifests().join("route.yaml").display().to_string();
    let of_route = [
        place.as_str(),
        "document 1: HTTPRoute default/forgetful (no effect): spec.parentRefs[0]: ",
        "write group: \"\"",
    ];
    let problems = waypoint.problems().await;
    let lines: Vec<&str> = problems.lines().collect();
    let has = |parts: &[&str]| {
        let mut lines = lines.iter();
        lines.any(|line| parts.iter().all(|part| line.contains(part)))
    };
    assert!(has(&of_route), "{problems}");
    assert!(
        has(&[
            "bare.yaml",
            "Service default/bare (no effect): spec.clusterIP: "
        ]),
        "{problems}"
    );
    assert_eq!(lines.len(), 2, "{problems}");
    logs::until_line(&[&["WARN"], &of_route[..]].concat()).await;
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);

    // Corrected, the route acts, and another one is told of.
    mesh.manifest("route.yaml", &route("forgetful", "group: '', "));
    mesh.remove_manifest("bare.yaml");
    mesh.manifest("late.yaml", &route("late", "group: '', port: 8080, "));
    let late = [
        "late.yaml",
        "HTTPRoute default/late (no effect): spec.parentRefs[0]: Service default/web has no port 8080",
    ];
    let problems = waypoint.until_problem(late[1]).await;
    assert_eq!(problems.lines().count(), 1, "{problems}");
    logs::until_line(&["WARN", late[0], late[1]]).await;
    until("the redirect", async || {
        let answer = client.get(to, "/").await;
        (answer.status == StatusCode::MOVED_PERMANENTLY).then_some(())
    })
    .await;
    mesh.remove_manifest("late.yaml");
    until("no problems", async || {
        waypoint.problems().await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_for_others_is_one_quiet_line() {
    logs::record();
    let mesh = Mesh::new();
    let (_to, _app) = mesh.http_service(1, "web").await;
    let foreign: String = (0..12)
        .map(|n| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: quiet{n}, namespace: other}}\nspec: {{clusterIP: 10.97.0.{n}, ports: [{{port: 80}}]}}\n---\n"
            )
        })
        .collect();
    mesh.manifest("foreign.yaml", &foreign);
    let waypoint = mesh.start().await;
    let problems = waypoint.problems().await;
    assert_eq!(problems.lines().count(), 1, "{problems}");
    let line = "Service (not for this waypoint): no label istio.io/use-waypoint on it or its namespace: other/quiet0, ";
    assert!(
        problems.starts_with(line) && problems.ends_with(" and 4 more\n"),
        "{problems}"
    );
    logs::until_line(&["INFO", line, " and 4 more"]).await;
    assert!(logs::lines(&["WARN", "quiet"]).is_empty());
}

#[tokio::test]
async fn the_tcp_port_behind_a_udp_port_of_its_number_is_served() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "web-1", "web", false);
    let address = std::net::SocketAddr::new(mesh.pod_ip(1), 8080);
    let _app = App::http(address, "web").await;
    let vip = mesh.service_with_port(
        1,
        "web",
        "{name: quic, port: 80, protocol: UDP, targetPort: 9}, {name: http, port: 80, targetPort: 8080}",
    );
    mesh.manifest(
        "route.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: default}\n\
         spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{matches: [{path: {value: /routed}}], backendRefs: [{name: web, port: 80}]}]}\n",
    );
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    for path in ["/routed", "/routed/more"] {
        let answer = client.get(vip, path).await;
        assert_eq!(
            (answer.status, answer.header("x-app").as_str()),
            (StatusCode::OK, "web"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn endpoints_and_allocated_addresses_are_used() {
    let mesh = Mesh::new();
    let _app = App::http(std::net::SocketAddr::new(mesh.pod_ip(1), 8080), "old").await;
    let (old, entry) = (mesh.vip(1), mesh.vip(2));
    mesh.manifest(
        "old.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: old, namespace: default}}\nspec: {{clusterIP: {}, ports: [{{name: http, port: 80.0}}]}}\n---\n\
             apiVersion: v1\nkind: Endpoints\nmetadata: {{name: old, namespace: default}}\nsubsets: [{{addresses: [{{ip: {1}}}], ports: [{{name: http, port: 8080}}]}}]\n---\n\
             apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: entry, namespace: default}}\n\
             spec: {{hosts: [entry.test], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: {1}, ports: {{http: 8080}}}}]}}\n\
             status: {{addresses: [{{host: entry.test, value: {2}}}]}}\n",
            old.ip(),
            mesh.pod_ip(1),
            entry.ip(),
        ),
    );
    let waypoint = mesh.start().await;
    assert_eq!(waypoint.problems().await, "");
    let client = mesh.client(&waypoint, "default", "curl").await;
    for vip in [old, entry] {
        let answer = client.get(vip, "/").await;
        assert_eq!(
            (answer.status, answer.header("x-app").as_str()),
            (StatusCode::OK, "old"),
            "{vip}"
        );
    }
}

#[tokio::test]
async fn what_is_told_has_a_bound() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let bare: String = (0..1200)
        .map(|n| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: bare{n}, namespace: default}}\nspec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}\n---\n"
            )
        })
        .collect();
    mesh.manifest("bare.yaml", &bare);
    let settings = format!("x{}\\ny", "y".repeat(3000));
    mesh.manifest(
        "settings.yaml",
        &format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    ? \"{settings}\"\n    : 1\n"),
    );
    let waypoint = mesh.start().await;
    let problems = waypoint.problems().await;
    let lines: Vec<&str> = problems.lines().collect();
    assert_eq!(lines.len(), 1001, "{}", lines.len());
    assert_eq!(lines[1000], "and 202 more");
    assert!(lines.iter().all(|line| line.chars().count() < 1100));
    let long = lines
        .iter()
        .find(|line| line.contains("data.mesh.xyyy"))
        .unwrap();
    assert!(long.ends_with(" more characters"), "{long}");
    let client = mesh.client(&waypoint, "default", "curl").await;
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
}
