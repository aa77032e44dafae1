//! A policy in dry run decides nothing, and what it would have decided is told: in the log, in metrics by our names and
//! Envoy's, and where somebody asks why.

use http::{Method, StatusCode};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh, Waypoint};

use crate::authorization::policy;

const JSON_LOG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: '{accessLogFile: /dev/stdout, accessLogEncoding: JSON}'}
";
const WOULD_HAVE: &str = "waypoint_policy_dry_run_denials_total";

fn dry(name: &str, target: &str, spec: &str) -> String {
    let annotated = format!("metadata: {{annotations: {{istio.io/dry-run: 'true'}}, name: {name}");
    let text = policy(name, target, spec);
    let found = format!("metadata: {{name: {name}");
    assert!(text.contains(&found), "{text}");
    text.replace(&found, &annotated)
}

async fn explained(waypoint: &Waypoint, query: &str) -> Value {
    let path = format!("/explain?format=json&{query}");
    let (status, body) = http_get(waypoint.running.admin_addr, &path).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// What `/stats` says of these.
async fn stats(waypoint: &Waypoint, filter: &str) -> Vec<String> {
    let path = format!("/stats?filter={filter}");
    let (_, body) = http_get(waypoint.running.admin_addr, &path).await;
    body.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn what_a_policy_in_dry_run_would_deny_passes_and_is_told() {
    let mesh = Mesh::new();
    mesh.manifest("mesh.yaml", JSON_LOG);
    let (to, app) = mesh.http_service(1, "web").await;
    let no_writes = ", action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {methods: [PUT]}}]}]";
    mesh.manifest("deny.yaml", &dry("no-writes", "web", no_writes));
    let own = ", action: ALLOW, rules: [{to: [{operation: {paths: [/own]}}]}]";
    mesh.manifest("allow.yaml", &dry("own", "web", own));
    let (waypoint, client) = mesh.started().await;
    for (method, path, by) in [
        (
            Method::PUT,
            "/own?a",
            "DENY default/no-writes rule 1".into(),
        ),
        (Method::POST, "/other?b", "ALLOW default/own".into()),
        (Method::POST, "/own?c", Value::Null),
    ] {
        let answer = client.request(to, request(method, path, &[])).await;
        assert_eq!(answer.status, StatusCode::OK);
        let line = waypoint.until_logged(path).await;
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["dry_run_denied_by"], by, "{line:#}");
        assert!(line.get("denied_by").is_none(), "{line:#}");
    }
    assert_eq!(app.seen().len(), 3);

    let by_rule = [
        ("action", "DENY"),
        ("policy_namespace", "default"),
        ("policy", "no-writes"),
        ("rule", "1"),
    ];
    waypoint.until_metric(WOULD_HAVE, &by_rule, 1.0).await;
    let by_none = [("action", "ALLOW"), ("policy", ""), ("rule", "")];
    waypoint.until_metric(WOULD_HAVE, &by_none, 1.0).await;
    let prefix = "http.inbound_0.0.0.0_80;.rbac.istio_dry_run_";
    let told = stats(&waypoint, "istio_dry_run_").await;
    for (counter, value) in [
        ("deny_shadow_denied", 1),
        ("deny_shadow_allowed", 2),
        ("allow_shadow_denied", 1),
        ("allow_shadow_allowed", 2),
    ] {
        let line = format!("{prefix}{counter}: {value}");
        assert!(told.contains(&line), "{line}: {told:#?}");
    }

    let put = explained(
        &waypoint,
        "from=default/a&method=PUT&url=http://web.default/own",
    )
    .await;
    let verdict = &put["verdict"];
    assert_eq!(verdict["outcome"], "forwarded", "{put:#}");
    assert_eq!(verdict["dryRunDeniedBy"], "DENY default/no-writes rule 1");
    let step = &put["policies"][0];
    assert_eq!(
        (&step["enforced"], &step["dryRun"]),
        (&false.into(), &true.into())
    );
    let text = "/explain?from=default/a&method=PUT&url=http://web.default/own";
    let (_, text) = http_get(waypoint.running.admin_addr, text).await;
    assert!(
        text.contains("policy    DENY: dry run, would deny it"),
        "{text}"
    );
    assert!(
        text.contains("dry run   would be denied by DENY default/no-writes rule 1"),
        "{text}"
    );
    // Asking counts nothing that wasn't there.
    waypoint.until_metric(WOULD_HAVE, &by_rule, 1.0).await;
}

#[tokio::test]
async fn streams_are_told_of_as_well_and_enforced_decisions_count_by_envoys_names() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_tcp_service(1, "db");
    mesh.access_log_format("%RESPONSE_FLAGS% dry=%DRY_RUN_DENIED_BY% by=%DENIED_BY%");
    mesh.manifest(
        "dry.yaml",
        &dry("closed", "db", ", action: DENY, rules: [{}]"),
    );
    let own = ", action: ALLOW, rules: [{from: [{source: {namespaces: [default]}}]}]";
    mesh.manifest("allow.yaml", &policy("own", "db", own));
    App::tcp(backend, async |mut tcp| {
        let _ = tcp.write_all(b"hello").await;
    })
    .await;
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.exchange(to, b"").await.0, "hello");
    let stranger = mesh.client(&waypoint, "other", "stranger").await;
    assert_eq!(stranger.exchange(to, b"").await.0, "");
    let closed = [("action", "DENY"), ("policy", "closed"), ("rule", "0")];
    waypoint.until_metric(WOULD_HAVE, &closed, 2.0).await;
    let told = stats(&waypoint, "tcp.rbac").await;
    for line in [
        "tcp.rbac.istio_dry_run_deny_shadow_denied: 2",
        "tcp.rbac.allowed: 1",
        "tcp.rbac.denied: 1",
    ] {
        assert!(told.iter().any(|told| told == line), "{line}: {told:#?}");
    }
    waypoint
        .until_logged("dry=DENY_default/closed_rule_0 by=ALLOW_default/own")
        .await;
}
