//! What a Service itself says of which of its pods are to be asked: the near ones first, or those on the same node only.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use waypoint_tests::balancing::pods;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{Ztunnel, get};
use waypoint_tests::{App, Mesh};

/// Where the pods run: the second on the waypoint's node, the third in its zone, the first in another.
const NODES: [(&str, &str); 3] = [("n1", "a"), ("n2", "b"), ("n3", "a")];
const OF_PODS: [&str; 3] = ["n2", "n1", "n3"];

async fn three(mesh: &Mesh) -> Vec<App> {
    let apps = pods(mesh, 3).await;
    for (node, zone) in NODES {
        let labels =
            format!("topology.kubernetes.io/region: r, topology.kubernetes.io/zone: {zone}");
        mesh.manifest(
            &format!("node-{node}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, labels: {{{labels}}}}}\n"
            ),
        );
    }
    mesh.manifest(
        "own.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: way-1, namespace: default, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}\nspec: {nodeName: n1}\n",
    );
    for (n, node) in (1..).zip(OF_PODS) {
        change_pod(mesh, n, "spec: {", &format!("spec: {{nodeName: {node}, "));
    }
    apps
}

fn change_pod(mesh: &Mesh, n: u8, from: &str, to: &str) {
    let name = format!("pod-web-{n}.yaml");
    let text = fs::read_to_string(mesh.manifests().join(&name)).unwrap();
    assert!(text.contains(from), "{text}");
    mesh.manifest(&name, &text.replace(from, to));
}

/// `web` with this in its metadata and spec.
fn web(mesh: &Mesh, meta: &str, spec: &str) -> SocketAddr {
    let vip = mesh.vip(1);
    mesh.manifest(
        "service-web.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: default{meta}}}\n\
             spec: {{clusterIP: {}, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}]{spec}}}\n",
            vip.ip()
        ),
    );
    vip
}

/// Which pods answer.
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
async fn the_near_ones_come_first_and_the_next_when_they_are_not_ready() {
    let mesh = Mesh::new();
    let _apps = three(&mesh).await;
    let to = web(&mesh, "", ", trafficDistribution: PreferSameZone");
    let (_waypoint, client) = mesh.started().await;
    until_answering(&client, to, &[2, 3]).await;
    web(&mesh, "", ", trafficDistribution: PreferSameNode");
    until_answering(&client, to, &[2]).await;
    let (ready, unready) = ("status: 'True'", "status: 'False'");
    change_pod(&mesh, 2, ready, unready);
    until_answering(&client, to, &[3]).await;
    change_pod(&mesh, 3, ready, unready);
    until_answering(&client, to, &[1]).await;
    change_pod(&mesh, 2, unready, ready);
    until_answering(&client, to, &[2]).await;
    change_pod(&mesh, 3, unready, ready);
    web(&mesh, "", "");
    until_answering(&client, to, &[1, 2, 3]).await;
}

#[tokio::test]
async fn annotations_say_it_and_rules_stand_above_it() {
    let near = "networking.istio.io/traffic-distribution: preferclose";
    let mesh = Mesh::new();
    let _apps = three(&mesh).await;
    let to = web(&mesh, &format!(", annotations: {{{near}}}"), "");
    let (_waypoint, client) = mesh.started().await;
    until_answering(&client, to, &[2, 3]).await;
    mesh.manifest(
        "rule.yaml",
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: web, namespace: default}\n\
         spec: {host: web, trafficPolicy: {loadBalancer: {localityLbSetting: {enabled: false}}}}\n",
    );
    until_answering(&client, to, &[1, 2, 3]).await;
    mesh.remove_manifest("rule.yaml");
    until_answering(&client, to, &[2, 3]).await;
    web(&mesh, "", "");
    until_answering(&client, to, &[1, 2, 3]).await;
    let base = fs::read_to_string(mesh.manifests().join("base.yaml")).unwrap();
    let labels = "  labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}\n";
    let both = format!("{labels}  annotations: {{{near}}}\n");
    mesh.manifest("base.yaml", &base.replace(labels, &both));
    until_answering(&client, to, &[2, 3]).await;
}

#[tokio::test]
async fn a_local_policy_means_the_waypoints_node() {
    let mesh = Mesh::new();
    let _apps = three(&mesh).await;
    let to = web(&mesh, "", ", internalTrafficPolicy: Local");
    let (_waypoint, client) = mesh.started().await;
    until_answering(&client, to, &[2]).await;
    change_pod(&mesh, 2, "nodeName: n1", "nodeName: n2");
    until("nobody to be left", async || {
        (client.get(to, "/").await.status == 503).then_some(())
    })
    .await;
}
