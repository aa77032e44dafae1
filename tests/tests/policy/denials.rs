//! Who denied a request is told: in the log, in metrics, and to the client where a setting asks for it.

use http::{Method, StatusCode};
use serde_json::Value;
use waypoint_tests::Mesh;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::request;

use crate::authorization::policy;

const JSON_LOG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: '{accessLogFile: /dev/stdout, accessLogEncoding: JSON}'}
";

fn mesh_with_policies() -> Mesh {
    let mesh = Mesh::new();
    let deny = ", action: DENY, rules: [{to: [{operation: {paths: [/never]}}]}, {to: [{operation: {methods: [PUT]}}]}]";
    let allow = ", action: ALLOW, rules: [{from: [{source: {namespaces: [default]}}]}]";
    let other = ", action: ALLOW, rules: [{to: [{operation: {methods: [PATCH]}}]}]";
    mesh.manifest("deny.yaml", &policy("no-writes", "web", deny));
    mesh.manifest("allow.yaml", &policy("own", "web", allow));
    mesh.manifest("other.yaml", &policy("patches", "web", other));
    mesh
}

#[tokio::test]
async fn a_denial_names_policy_and_rule() {
    let mesh = mesh_with_policies();
    mesh.manifest("mesh.yaml", JSON_LOG);
    let (to, _app) = mesh.http_service(1, "web").await;
    let denial_header = Some("x-denied-by".parse().unwrap());
    let waypoint = mesh
        .start_with(|options| options.denial_header = denial_header)
        .await;
    let friend = mesh.client(&waypoint, "default", "friend").await;
    let stranger = mesh.client(&waypoint, "other", "stranger").await;

    let put = friend.request(to, request(Method::PUT, "/x", &[])).await;
    assert_eq!(
        (put.status, put.text().as_str()),
        (StatusCode::FORBIDDEN, "RBAC: access denied")
    );
    assert_eq!(put.header("x-denied-by"), "DENY default/no-writes rule 1");
    let foreign = stranger.request(to, request(Method::GET, "/y", &[])).await;
    assert_eq!(
        foreign.header("x-denied-by"),
        "ALLOW default/own, default/patches"
    );
    let fine = friend.request(to, request(Method::GET, "/z", &[])).await;
    assert_eq!(
        (fine.status, fine.header("x-denied-by").as_str()),
        (StatusCode::OK, "")
    );

    let line = async |path: &str| -> Value {
        let path = format!("\"{path}\"");
        let line = waypoint.until_logged(&path).await;
        serde_json::from_str(&line).unwrap()
    };
    assert_eq!(
        line("/x").await["denied_by"],
        "DENY default/no-writes rule 1"
    );
    assert_eq!(
        line("/y").await["denied_by"],
        "ALLOW default/own, default/patches"
    );
    assert!(
        line("/z").await.get("denied_by").is_none(),
        "only of what was denied"
    );

    let denials = "waypoint_policy_denials_total";
    let of_rule = [
        ("action", "DENY"),
        ("policy_namespace", "default"),
        ("policy", "no-writes"),
        ("rule", "1"),
    ];
    waypoint.until_metric(denials, &of_rule, 1.0).await;
    let of_none = [("action", "ALLOW"), ("policy", ""), ("rule", "")];
    waypoint.until_metric(denials, &of_none, 1.0).await;
}

#[tokio::test]
async fn nobody_is_told_unless_a_setting_says_so_and_text_logs_may_ask() {
    let mesh = mesh_with_policies();
    mesh.access_log_format("%REQ(:PATH)% %RESPONSE_CODE% by=%DENIED_BY%");
    let (to, _app) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    let put = client
        .request(to, request(Method::PUT, "/never", &[]))
        .await;
    assert_eq!(put.status, StatusCode::FORBIDDEN);
    let names = put
        .headers
        .values()
        .any(|value| value.as_bytes().windows(9).any(|w| w == b"no-writes"));
    assert!(!names, "{:?}", put.headers);
    client.request(to, request(Method::GET, "/fine", &[])).await;
    until("both lines", async || {
        let log = waypoint.log();
        let denied = log.contains("/never 403 by=DENY_default/no-writes_rule_0\n");
        (denied && log.contains("/fine 200 by=-\n")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_denied_stream_is_counted_by_its_policy() {
    let mesh = Mesh::new();
    let (to, _) = mesh.bare_tcp_service(1, "db");
    mesh.manifest(
        "deny.yaml",
        &policy("closed", "db", ", action: DENY, rules: [{}]"),
    );
    let (waypoint, client) = mesh.started().await;
    let _ = client.exchange(to, b"hello").await;
    let labels = [("action", "DENY"), ("policy", "closed"), ("rule", "0")];
    waypoint
        .until_metric("waypoint_policy_denials_total", &labels, 1.0)
        .await;
}
