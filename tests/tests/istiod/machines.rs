//! Machines outside of Kubernetes, as a real istiod has them behind a Service.

use std::collections::BTreeSet;

use waypoint_tests::istiod::{Istiod, Pod};
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{App, Mesh};

use crate::load::client;

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_service_has_machines_beside_its_pods() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let _plain = App::http((mesh.pod_ip(2), 9090).into(), "plain").await;
    let _tunnelled = App::http(mesh.backend(3), "tunnelled").await;
    let _ztunnel = PodZtunnel::start(mesh.pod_ip(3), &mesh.certificate("default", "vm")).await;
    for (n, name, more) in [
        (2, "plain", "labels: {app: web}, ports: {http: 9090}"),
        (
            3,
            "tunnelled",
            "serviceAccount: vm, labels: {app: web, networking.istio.io/tunnel: http}",
        ),
    ] {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{address: {}, {more}}}\n",
            mesh.pod_ip(n)
        );
        mesh.manifest(&format!("{name}.yaml"), &text);
    }
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    istiod.until_synced().await;
    assert_eq!(http_get(pod.admin, "/problems").await.1, "");
    let client = client(&mesh, &pod).await;
    let all = ["plain", "tunnelled", "web"].map(str::to_owned);
    until("all to answer", async || {
        let mut connection = client.http1(to).await;
        let mut found = BTreeSet::new();
        for _ in 0..40 {
            found.insert(connection.send(get("/")).await.header("x-app"));
        }
        (found == BTreeSet::from(all.clone())).then_some(())
    })
    .await;
}
