//! The admin port as `istioctl` and Istio's agent read it.
use std::net::SocketAddr;

use http::StatusCode;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use waypoint_config::dump::descriptors;
use waypoint_tests::telemetry::{http_get, http_request};
use waypoint_tests::wait::until;
use waypoint_tests::{Mesh, Waypoint};

pub(super) const WEB: &str = "inbound-vip|80|http|web.default.svc.cluster.local";

pub(super) const PLAIN: &str = "inbound-vip|80|http|plain.default.svc.cluster.local";

/// A service whose pod has a ztunnel, and one whose pod has none.
pub(super) async fn scene(mesh: &Mesh) -> (Waypoint, SocketAddr) {
    let (web, _app, _ztunnel) = mesh.captured_service(1, "web").await;
    let _plain = mesh.http_service(2, "plain").await;
    (mesh.start().await, web)
}

pub(super) async fn get(waypoint: &Waypoint, path: &str) -> String {
    let (status, body) = http_get(waypoint.running.admin_addr, path).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

/// A page as JSON that is a message of Envoy's admin API: its reader reads all of it.
pub(super) async fn message(waypoint: &Waypoint, path: &str, name: &str) -> Value {
    let (status, head, body) = http_request(waypoint.running.admin_addr, "GET", path).await;
    assert_eq!(status, 200, "{path}: {body}");
    assert!(head.contains("content-type: application/json"), "{head}");
    let json: Value = serde_json::from_str(&body).unwrap();
    let pool = descriptors::pool().unwrap();
    let descriptor = pool
        .get_message_by_name(&format!("envoy.admin.v3.{name}"))
        .unwrap();
    DynamicMessage::deserialize(descriptor, &json).unwrap();
    json
}

/// The element of a list whose field at `pointer` says `value`.
pub(super) fn find<'a>(list: &'a Value, pointer: &str, value: &str) -> &'a Value {
    let list = list.as_array().unwrap();
    let is_it = |element: &&Value| element.pointer(pointer).is_some_and(|v| v == value);
    list.iter()
        .find(is_it)
        .unwrap_or_else(|| panic!("no {value} in {list:?}"))
}

#[tokio::test]
async fn clusters_and_listeners_as_they_are_used() {
    let mesh = Mesh::new();
    let (waypoint, web) = scene(&mesh).await;
    let clusters = message(&waypoint, "/clusters?format=json", "Clusters").await;
    let web_cluster = find(&clusters["cluster_statuses"], "/name", WEB);
    assert_eq!(web_cluster["added_via_api"], true);
    assert_eq!(web_cluster["eds_service_name"], WEB);
    let host = &web_cluster["host_statuses"][0];
    let internal = format!("{}:8080", mesh.pod_ip(1));
    assert_eq!(
        host["address"]["envoy_internal_address"]["endpoint_id"],
        internal
    );
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    assert_eq!(host["weight"], 1);
    let plain = find(&clusters["cluster_statuses"], "/name", PLAIN);
    assert_eq!(
        plain["host_statuses"][0]["address"]["socket_address"],
        json!({"address": mesh.pod_ip(2).to_string(), "port_value": 8080})
    );

    // A request that is under way is counted at its endpoint.
    let client = mesh.client(&waypoint, "default", "curl").await;
    let tunnel = client.tunnel(web).await;
    let text = get(&waypoint, "/clusters").await;
    drop(tunnel);
    let line = |rest: &str| format!("{WEB}::envoy://connect_originate/{internal}::{rest}\n");
    assert!(text.contains(&line("health_flags::healthy")), "{text}");
    assert!(text.contains(&line("rq_active::0")), "{text}");

    let listeners = message(&waypoint, "/listeners?format=json", "Listeners").await;
    let terminate = find(
        &listeners["listener_statuses"],
        "/name",
        "connect_terminate",
    );
    assert_eq!(
        terminate["local_address"]["socket_address"],
        json!({
            "address": waypoint.address().ip().to_string(),
            "port_value": waypoint.address().port(),
        })
    );
    find(&listeners["listener_statuses"], "/name", "main_internal");
    let text = get(&waypoint, "/listeners").await;
    assert!(
        text.contains(&format!("connect_terminate::{}\n", waypoint.address())),
        "{text}"
    );
}

/// What Istio's agent asks before it says that its Envoy is ready.
pub(super) const PROBE: &str = "/stats?usedonly&filter=%5E(server.state%7Clistener_manager.workers_started\
    %7Ccluster_manager.cds.update_(success%7Crejected)%7Clistener_manager.lds.update_(success%7Crejected))$";

#[tokio::test]
async fn stats_tell_the_truth_to_istios_probe() {
    let mesh = Mesh::new();
    let (waypoint, web) = scene(&mesh).await;
    assert_eq!(
        get(&waypoint, PROBE).await,
        "cluster_manager.cds.update_success: 1\n\
         listener_manager.lds.update_success: 1\n\
         listener_manager.workers_started: 1\n\
         server.state: 0\n"
    );
    let client = mesh.client(&waypoint, "default", "curl").await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    waypoint
        .until_metric("istio_requests_total", &[("response_code", "200")], 1.0)
        .await;
    let stats = get(&waypoint, "/stats?filter=%5Eistio_requests_total").await;
    let line = stats
        .lines()
        .find(|l| l.contains("destination_service_name.web"))
        .unwrap();
    assert!(
        line.contains(".reporter.waypoint.") && line.ends_with(": 1"),
        "{line}"
    );
    let membership = format!("cluster.{WEB};.membership_healthy");
    assert!(
        get(&waypoint, "/stats")
            .await
            .contains(&format!("{membership}: 1\n"))
    );
    let json: Value = serde_json::from_str(&get(&waypoint, "/stats?format=json").await).unwrap();
    assert_eq!(find(&json["stats"], "/name", &membership)["value"], 1.0);
    for path in [
        "/stats/prometheus",
        "//stats/prometheus",
        "/stats?format=prometheus",
    ] {
        let text = get(&waypoint, path).await;
        assert!(
            text.contains("# TYPE istio_requests_total counter"),
            "{path}"
        );
    }
    let (status, body) = http_get(waypoint.running.admin_addr, "/stats?filter=(").await;
    assert_eq!(
        (status, body.starts_with("filter: ")),
        (400, true),
        "{body}"
    );

    // A change that adds a service counts as one more for each type that it touches.
    let _third = mesh.http_service(3, "third").await;
    until("the update", async || {
        let stats = get(&waypoint, PROBE).await;
        (!stats.contains("lds.update_success: 1\n")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_process_tells_of_itself() {
    let mesh = Mesh::new();
    let (waypoint, _) = scene(&mesh).await;
    let info = message(&waypoint, "/server_info", "ServerInfo").await;
    assert_eq!(info["state"], "LIVE");
    assert!(
        info["version"]
            .as_str()
            .unwrap()
            .contains(env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        info["command_line_options"]["service_cluster"],
        "waypoint.default"
    );
    assert_eq!(info["node"]["metadata"]["NAMESPACE"], "default");
    let memory = message(&waypoint, "/memory", "Memory").await;
    let physical: u64 = memory["total_physical_bytes"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(physical > 1 << 20, "{memory}");
    assert_eq!(get(&waypoint, "/ready").await, "LIVE\n");
    let runtime: Value = serde_json::from_str(&get(&waypoint, "/runtime").await).unwrap();
    assert_eq!(runtime["entries"], json!({}));
    assert!(
        get(&waypoint, "/list")
            .await
            .contains("<a href=\"/config_dump\">")
    );
    assert!(
        get(&waypoint, "/help")
            .await
            .contains("/quitquitquit: end at once (POST)\n")
    );
    let admin = waypoint.running.admin_addr;
    let (status, body) = http_get(admin, "/nonsense").await;
    assert_eq!(
        (status, body.contains("/config_dump")),
        (404, true),
        "{body}"
    );
    // Levels of a log that isn't this process's own are shown and can't be changed.
    assert!(
        get(&waypoint, "/logging")
            .await
            .starts_with("active loggers:\n  a2a: ")
    );
    let (status, ..) = http_request(admin, "POST", "/logging?level=debug").await;
    assert_eq!(status, 400);
}

/// `istioctl bug-report` drops all that it knows of a pod when one of these fails.
#[tokio::test]
async fn a_bug_report_gets_all_that_it_asks_for() {
    let mesh = Mesh::new();
    let (waypoint, _) = scene(&mesh).await;
    for path in [
        "certs",
        "clusters",
        "config_dump?include_eds",
        "listeners",
        "memory",
        "server_info",
        "stats/prometheus",
        "runtime",
    ] {
        assert!(
            !get(&waypoint, &format!("/{path}")).await.is_empty(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn told_to_fail_and_to_drain_it_goes_on_serving() {
    let mesh = Mesh::new();
    let (waypoint, web) = scene(&mesh).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let (admin, stats, readiness) = (
        waypoint.running.admin_addr,
        waypoint.running.stats_addr,
        waypoint.running.readiness_addr,
    );
    let ready = async || http_get(readiness, "/healthz/ready").await.0;
    assert_eq!(ready().await, 200);
    assert_eq!(http_get(admin, "/healthcheck/fail").await.0, 405);
    let (status, _, body) = http_request(admin, "POST", "/healthcheck/fail").await;
    assert_eq!((status, body.as_str(), ready().await), (200, "OK\n", 503));
    assert!(get(&waypoint, PROBE).await.contains("server.state: 1\n"));
    http_request(admin, "POST", "/healthcheck/ok").await;
    assert_eq!(ready().await, 200);
    let answer = client.get(web, "/").await;
    assert_ne!(answer.header("connection"), "close");

    let (status, head, _) = http_request(stats, "GET", "/drain").await;
    assert_eq!(
        (status, head.contains("allow: post")),
        (405, true),
        "{head}"
    );
    assert_eq!(ready().await, 200);
    let (status, ..) = http_request(stats, "POST", "/drain").await;
    assert_eq!((status, ready().await), (200, 503));
    assert_eq!(
        http_get(stats, "/healthz/ready").await,
        (503, "draining\n".to_owned())
    );
    let info = message(&waypoint, "/server_info", "ServerInfo").await;
    assert_eq!(info["state"], "DRAINING");
    assert!(get(&waypoint, PROBE).await.contains("server.state: 1\n"));
    // The client is told to go; whoever comes all the same is served.
    until("the client's connection to end", async || {
        client
            .connect_to(&web.to_string(), &[])
            .await
            .is_err()
            .then_some(())
    })
    .await;
    let late = mesh.client(&waypoint, "default", "curl").await;
    let answer = late.get(web, "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("connection"), "close");
    let (status, ..) = http_request(admin, "POST", "/drain_listeners?graceful").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn the_port_for_metrics_has_metrics_only() {
    let mesh = Mesh::new();
    let (waypoint, _) = scene(&mesh).await;
    let stats = waypoint.running.stats_addr;
    for path in ["/stats/prometheus", "/metrics"] {
        let (status, head, body) = http_request(stats, "GET", path).await;
        assert_eq!(status, 200);
        assert!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        assert!(
            body.contains("# TYPE waypoint_config_updates_total counter"),
            "{body}"
        );
    }
    let build = [("component", "proxy"), ("tag", "unknown")];
    assert_eq!(waypoint.metric("istio_build", &build).await, 1.0);
    for path in ["/config_dump", "/certs", "/logging", "/"] {
        assert_eq!(http_get(stats, path).await.0, 404, "{path}");
        assert_eq!(http_get(waypoint.running.readiness_addr, path).await.0, 404);
    }
}
