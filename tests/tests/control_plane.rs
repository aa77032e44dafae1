//! A waypoint under an istiod that does what istiods do, and what they don't.

#![allow(clippy::unwrap_used)]

use http::StatusCode;
use waypoint_tests::{ControlPlane, Mesh};

#[tokio::test]
async fn a_good_istiod_configures_and_certifies() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let waypoint = mesh.start_under(&istiod).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);

    let (late, _) = mesh.http_service(2, "late").await;
    istiod.discovery.set(mesh.resources());
    waypoint_tests::wait::until("the new service", async || {
        let (status, _) = client.connect_to(&late.to_string(), &[]).await.unwrap();
        (status == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(client.get(late, "/").await.status, StatusCode::OK);
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    assert_eq!((istiod.discovery.streams(), istiod.ca.requests()), (1, 1));
}
