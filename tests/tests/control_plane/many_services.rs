//! A waypoint with a thousand services: one more is no business of the others.

use std::fmt::Write;
use std::net::SocketAddr;

use http::StatusCode;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{ControlPlane, Mesh, Waypoint};

/// Services without endpoints, `from` to `to`.
fn services(from: u32, to: u32) -> String {
    let mut text = String::new();
    for n in from..to {
        let [_, _, c, d] = (n + 1).to_be_bytes();
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: other-{n}, namespace: default}}\n\
             spec: {{clusterIP: 10.97.{c}.{d}, selector: {{app: other-{n}}}, ports: [{{name: http, port: 80}}]}}"
        )
        .unwrap();
    }
    text
}

async fn chains(waypoint: &Waypoint, state: &str) -> f64 {
    waypoint
        .metric("waypoint_filter_chains", &[("state", state)])
        .await
}

#[tokio::test]
async fn a_service_more_leaves_the_connections_of_a_thousand_others_alone() {
    let mesh = Mesh::new();
    let (web, app) = mesh.http_service(1, "web").await;
    let (behind, captured, ztunnel) = mesh.captured_service(2, "behind").await;
    mesh.manifest("others.yaml", &services(0, 1000));
    let istiod = ControlPlane::of(&mesh).await;
    let waypoint = mesh.start_under(&istiod).await;
    // Told of after they are in force.
    until("a thousand chains", async || {
        (chains(&waypoint, "current").await > 1000.0).then_some(())
    })
    .await;

    let client = mesh.client(&waypoint, "default", "curl").await;
    let mut plain = client.http1(web).await;
    let mut through = client.http1(behind).await;
    assert_eq!(plain.send(get("/1")).await.status, StatusCode::OK);
    assert_eq!(through.send(get("/1")).await.status, StatusCode::OK);

    let (new, _) = mesh.http_service(3, "new").await;
    istiod.discovery.set(mesh.resources());
    until("the new service", async || {
        let (status, _) = client.connect_to(&new.to_string(), &[]).await.unwrap();
        (status == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(client.get(new, "/").await.status, StatusCode::OK);
    // And one of a thousand goes.
    mesh.manifest("others.yaml", &services(1, 1000));
    istiod.discovery.set(mesh.resources());
    let gone: SocketAddr = "10.97.0.1:80".parse().unwrap();
    until("the end of a service", async || {
        let (status, _) = client.connect_to(&gone.to_string(), &[]).await.unwrap();
        (status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;

    // The same connections, in and out, go on.
    assert_eq!(plain.send(get("/2")).await.status, StatusCode::OK);
    assert_eq!(through.send(get("/2")).await.status, StatusCode::OK);
    assert_eq!((app.connections(), captured.connections()), (1, 1));
    assert_eq!(ztunnel.connects().len(), 1, "one tunnel");
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    assert_eq!(chains(&waypoint, "closed").await, 0.0);
}
