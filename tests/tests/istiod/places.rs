//! Which pods are near, as a real istiod sees it of a waypoint: nodes and zones, of a Service, a rule, or the whole mesh.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use http::Version;
use waypoint_tests::balancing::pods;
use waypoint_tests::istiod::{Istiod, Pod};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{Ztunnel, get};
use waypoint_tests::{App, Mesh};

use crate::load::client;

/// Nodes and their zones, and where the pods `web-1` … run. The waypoint runs on `n1`.
const NODES: [(&str, &str); 2] = [("n1", "a"), ("n2", "b")];
const OF_PODS: [&str; 3] = ["n2", "n1", "n2"];

/// Says something more in MeshConfig.
fn say(mesh: &Mesh, settings: &str) {
    let base = fs::read_to_string(mesh.manifests().join("base.yaml")).unwrap();
    let file = "accessLogFile: /dev/stdout";
    let said = base.replace(file, &format!("{file}\n    {settings}"));
    mesh.manifest("base.yaml", &said);
}

async fn three(mesh: &Mesh) -> Vec<App> {
    let apps = pods(mesh, 3).await;
    for (node, zone) in NODES {
        mesh.manifest(
            &format!("node-{node}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, labels: {{topology.kubernetes.io/region: r, topology.kubernetes.io/zone: {zone}}}}}\n"
            ),
        );
    }
    for (n, node) in (1..).zip(OF_PODS) {
        place(mesh, n, "spec: {", &format!("spec: {{nodeName: {node}, "));
    }
    apps
}

fn place(mesh: &Mesh, n: u8, from: &str, to: &str) {
    let name = format!("pod-web-{n}.yaml");
    let text = fs::read_to_string(mesh.manifests().join(&name)).unwrap();
    assert!(text.contains(from), "{text}");
    mesh.manifest(&name, &text.replace(from, to));
}

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{host: web.default.svc.cluster.local, trafficPolicy: {{{policy}}}}}\n"
    )
}

fn web(mesh: &Mesh, spec: &str) -> SocketAddr {
    let vip = mesh.vip(1);
    mesh.manifest(
        "service-web.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default}}\n\
             spec: {{clusterIP: {}, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}]{spec}}}\n",
            vip.ip()
        ),
    );
    vip
}

async fn started(mesh: &Mesh) -> (Istiod, Pod, Ztunnel) {
    let istiod = Istiod::start(mesh);
    let node = [("ISTIO_META_NODE_NAME", "n1")];
    let pod = Pod::start_with(mesh, &istiod, 240, &node);
    pod.until_ready().await;
    istiod.until_synced().await;
    assert_eq!(http_get(pod.admin, "/problems").await.1, "");
    let client = client(mesh, &pod).await;
    (istiod, pod, client)
}

/// Waits until these pods answer, and no others.
async fn until_answering(client: &Ztunnel, to: SocketAddr, pods: &[u8]) {
    let pods: BTreeSet<String> = pods.iter().map(|n| format!("web-{n}")).collect();
    until(&format!("{pods:?} to answer"), async || {
        let mut connection = client.http1(to).await;
        let mut found = BTreeSet::new();
        for _ in 0..30 {
            found.insert(connection.send(get("/")).await.header("x-app"));
        }
        (found == pods).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_local_policy_means_the_waypoints_node() {
    let mesh = Mesh::new();
    let _apps = three(&mesh).await;
    let to = web(&mesh, ", internalTrafficPolicy: Local");
    let (istiod, _pod, client) = started(&mesh).await;
    until_answering(&client, to, &[2]).await;
    web(&mesh, ", internalTrafficPolicy: Cluster");
    until_answering(&client, to, &[1, 2, 3]).await;
    web(&mesh, ", internalTrafficPolicy: Local");
    until_answering(&client, to, &[2]).await;
    // Nobody on the node: nobody at all, rather than one elsewhere.
    mesh.remove_manifest("pod-web-2.yaml");
    until("nobody to be left", async || {
        (client.get(to, "/").await.status == 503).then_some(())
    })
    .await;
    istiod.until_synced().await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn zone_aware_balancing_leaves_a_waypoint_without_any_distance() {
    let mesh = Mesh::new();
    let _apps = three(&mesh).await;
    let to = web(&mesh, "");
    let outlier = "outlierDetection: {baseEjectionTime: 1h}";
    let zone_aware =
        format!("loadBalancer: {{zoneAwareLbSetting: {{minClusterSize: 1}}}}, {outlier}");
    mesh.manifest("rule.yaml", &rule(&zone_aware));
    let (istiod, pod, client) = started(&mesh).await;
    until_answering(&client, to, &[1, 2, 3]).await;
    mesh.manifest("rule.yaml", &rule(outlier));
    until_answering(&client, to, &[2]).await;
    mesh.manifest("rule.yaml", &rule(&zone_aware));
    until_answering(&client, to, &[1, 2, 3]).await;
    istiod.until_synced().await;
    assert_eq!(http_get(pod.admin, "/problems").await.1, "");
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn the_mesh_says_what_is_near_and_what_speaks_http2() {
    let mesh = Mesh::new();
    say(
        &mesh,
        "h2UpgradePolicy: UPGRADE\n    localityLbSetting: {distribute: [{from: r/a/*, to: {r/b/*: 100}}]}",
    );
    let apps = three(&mesh).await;
    let to = web(&mesh, "");
    let (_istiod, _pod, client) = started(&mesh).await;
    until_answering(&client, to, &[1, 3]).await;
    assert_eq!(apps[0].last().version, Version::HTTP_2);
    // What a rule says stands above it.
    mesh.manifest(
        "rule.yaml",
        &rule(
            "loadBalancer: {localityLbSetting: {enabled: false}}, connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}",
        ),
    );
    until_answering(&client, to, &[1, 2, 3]).await;
    assert_eq!(apps[1].last().version, Version::HTTP_11);
}
