//! Machines outside of Kubernetes: WorkloadEntries that a Service selects stand beside its pods.

use std::collections::BTreeMap;

use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{App, Mesh};

#[tokio::test]
async fn a_service_has_machines_beside_its_pods() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let _plain = App::http((mesh.pod_ip(2), 9090).into(), "plain").await;
    let _tunnelled = App::http(mesh.backend(3), "tunnelled").await;
    let ztunnel = PodZtunnel::start(mesh.pod_ip(3), &mesh.certificate("default", "vm")).await;
    let machine = |n: u8, name: &str, more: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{address: {}, {more}}}\n",
            mesh.pod_ip(n)
        )
    };
    // The port's name says which of its own is meant, else it is the pods'.
    let plain = machine(
        2,
        "plain",
        "labels: {app: web}, ports: {http: 9090}, weight: 3",
    );
    let tunnelled = "serviceAccount: vm, labels: {app: web, networking.istio.io/tunnel: http}";
    mesh.manifest("plain.yaml", &plain);
    mesh.manifest("tunnelled.yaml", &machine(3, "tunnelled", tunnelled));
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await, "");
    let mut connection = client.http1(to).await;
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..100 {
        let app = connection.send(get("/")).await.header("x-app");
        *found.entry(app).or_default() += 1;
    }
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["plain", "tunnelled", "web"]);
    assert!((40..80).contains(&found["plain"]), "3 of 5: {found:?}");
    let authority = mesh.backend(3).to_string();
    assert_eq!(ztunnel.connects()[0].authority, authority);

    mesh.remove_manifest("pod-web-1.yaml");
    mesh.remove_manifest("plain.yaml");
    until("only one to be left", async || {
        for _ in 0..20 {
            if connection.send(get("/")).await.header("x-app") != "tunnelled" {
                return None;
            }
        }
        Some(())
    })
    .await;
}
