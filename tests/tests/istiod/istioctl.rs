//! The real istioctl on the waypoint's pod, through the API server's port-forward.

use http::StatusCode;
use waypoint_tests::Mesh;
use waypoint_tests::istioctl::{Istioctl, rows};
use waypoint_tests::istiod::{Istiod, Pod};
use waypoint_tests::wait::until;

use crate::changes::{policy, route};
use crate::load::client;

const WEB: &str = "web.default.svc.cluster.local";
const POD: &str = "waypoint-0.default";

/// Whether a table has a row with these words in it, in this order.
fn has_row(table: &str, words: &[&str]) -> bool {
    rows(table).iter().any(|row| {
        let mut row = row.iter();
        words.iter().all(|word| row.any(|found| found == word))
    })
}

#[tokio::test]
#[ignore = "needs istiod, istioctl"]
async fn istioctl_reads_the_pod() {
    let mesh = Mesh::new();
    let (web, _, _ztunnel) = mesh.captured_service(1, "web").await;
    mesh.manifest("policy.yaml", &policy("web", "action: DENY", "/denied"));
    mesh.manifest("route.yaml", &route("web"));
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    istiod.until_synced().await;
    let curl = client(&mesh, &pod).await;
    assert_eq!(curl.get(web, "/").await.status, StatusCode::OK);
    let labels = [("response_code", "200")];
    until("the request's metric", async || {
        (pod.metric("istio_requests_total", &labels).await == 1.0).then_some(())
    })
    .await;

    let istioctl = Istioctl::new(&mesh, &istiod);
    let says = |words: &str| istioctl.says(&words.split(' ').collect::<Vec<_>>());
    let expect = |words: &str, row: &[&str]| {
        let table = says(words);
        assert!(
            has_row(&table, row),
            "istioctl {words}: no {row:?} in\n{table}"
        );
    };
    expect("proxy-status", &[POD, "Kubernetes", "1.31.0"]);
    let diff = says(&format!("proxy-status {POD}"));
    assert_eq!(diff, "Clusters Match\nListeners Match\nRoutes Match\n");
    let of = |what: &str| format!("proxy-config {what} {POD}");
    expect(&of("cluster"), &[WEB, "80", "http", "inbound-vip", "EDS"]);
    let chain = format!("inbound-vip|80|http|{WEB}");
    expect(
        &of("listener --waypoint"),
        &["envoy://main_internal", &chain],
    );
    expect(&of("listener"), &["0.0.0.0", "15008", "ALL"]);
    expect(&of("route"), &[&chain, "inbound|http|80"]);
    let endpoint = format!("envoy://connect_originate/{}:8080", mesh.pod_ip(1));
    expect(&of("endpoint"), &[&endpoint, "HEALTHY", "OK", &chain]);
    expect(&of("eds"), &[&endpoint, "HEALTHY", &chain]);
    expect(
        &of("secret"),
        &["default", "Cert", "Chain", "ACTIVE", "true"],
    );
    expect(&of("secret"), &["ROOTCA", "CA", "ACTIVE", "true"]);
    expect(&of("ecds"), &["ECDS", "NAME", "TYPE"]);
    assert!(says(&of("bootstrap")).contains("\"id\": \"waypoint~"));
    let all = says(&of("all"));
    for row in [
        ["Istio", "Version:", "1.31.0"],
        [&format!("cluster/{chain}"), WEB, "80"],
        [&format!("route/{chain}"), "inbound|http|80", "*"],
        ["secret/default", "Cert", "Chain"],
    ] {
        assert!(has_row(&all, &row), "{row:?}: {all}");
    }

    // Levels are read, changed, and reset; each of Envoy's names is taken.
    let levels = says(&of("log"));
    let loggers: Vec<&str> = levels
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(':').next())
        .collect();
    assert!(loggers.len() > 70, "{levels}");
    let debug: Vec<String> = loggers.iter().map(|l| format!("{l}:debug")).collect();
    let changed = says(&format!("{} --level {}", of("log"), debug.join(",")));
    assert_eq!(
        changed.matches(": debug\n").count(),
        loggers.len(),
        "{changed}"
    );
    let reset = says(&format!("{} --reset", of("log")));
    assert_eq!(
        reset.matches(": warning\n").count(),
        loggers.len(),
        "{reset}"
    );

    let stats = says(&format!("x envoy-stats {POD}"));
    for line in [
        "server.state: 0",
        "cluster_manager.cds.update_success: ",
        "cluster.xds-grpc.upstream_cx_active: 1",
        &format!("cluster.{chain};.upstream_cx_total: 1"),
    ] {
        assert!(stats.contains(line), "{line}: {stats}");
    }
    let json = says(&format!("x envoy-stats {POD} -o json"));
    assert!(json.contains("\"supported_quantiles\""), "{json}");
    for output in ["prom", "prom-merged"] {
        let text = says(&format!("x envoy-stats {POD} -o {output}"));
        assert!(text.contains("envoy_server_live 1\n"), "{text}");
        assert!(text.contains("istio_requests_total{reporter=\"waypoint\""));
    }
    let clusters = says(&format!("x envoy-stats {POD} --type clusters"));
    assert!(clusters.contains(&format!("{chain}::{endpoint}::health_flags::healthy")));
    expect(&format!("x authz check {POD}"), &["DENY", "1"]);
    let described = says(&format!("x describe pod {POD}"));
    assert!(described.starts_with("Pod: waypoint-0\n"), "{described}");
}
