//! In which order updates take effect, and what of a change changes nothing else.

use std::time::{Duration, Instant};

use http::StatusCode;
use waypoint_config::resource::ResourceType;
use waypoint_tests::load::Load;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{ControlPlane, Mesh};

use crate::control_plane::*;

#[tokio::test]
async fn a_new_services_listener_waits_for_its_endpoints() {
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    istiod.discovery.withhold(ResourceType::Endpoints);

    let (late, _) = mesh.http_service(2, "late").await;
    istiod.discovery.set(mesh.resources());
    let stream = istiod.discovery.stream(0).await;
    let asked = |r: &_| names(r).contains(&LATE.to_owned());
    stream.subscription(ResourceType::Endpoints, asked).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!granted(&client, late).await, "nobody would be there");
    let endpoints = named(&istiod, ResourceType::Endpoints, LATE);
    stream.push(ResourceType::Endpoints, &[endpoints], &[]);
    until("the new service", async || {
        granted(&client, late).await.then_some(())
    })
    .await;
    assert_eq!(client.get(late, "/").await.status, StatusCode::OK);
    istiod.discovery.until_answered().await;

    // Endpoints that never come are not waited for to the end of days.
    let (never, _) = mesh.http_service(3, "never").await;
    let pushed = Instant::now();
    istiod.discovery.set(mesh.resources());
    until("the service without endpoints", async || {
        granted(&client, never).await.then_some(())
    })
    .await;
    assert!(pushed.elapsed() >= Duration::from_secs(4));
    let answer = client.get(never, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

fn names(
    request: &envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest,
) -> Vec<String> {
    request.resource_names_subscribe.clone()
}

#[tokio::test]
async fn a_cluster_goes_after_the_listener_that_used_it_and_comes_back_with_endpoints() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (late, _) = mesh.http_service(2, "late").await;
    let (istiod, stream, _waypoint, client) = configured(&mesh).await;
    let mut open = client.http1(late).await;
    assert_eq!(open.send(get("/")).await.status, StatusCode::OK);

    let nonce = stream.push(ResourceType::Cluster, &[], &[LATE]);
    assert_eq!(stream.verdict(&nonce).await, Ok(()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = open.send(get("/")).await;
    assert_eq!(answer.status, StatusCode::OK, "the listener still uses it");

    mesh.remove_manifest("service-late.yaml");
    istiod.discovery.set(mesh.resources());
    until("the end of the service", async || {
        (!granted(&client, late).await).then_some(())
    })
    .await;
    let given_up =
        |request: &envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest| {
            let names = &request.resource_names_unsubscribe;
            names.contains(&LATE.to_owned())
        };
    stream.subscription(ResourceType::Endpoints, given_up).await;

    mesh.service(2, "late");
    istiod.discovery.set(mesh.resources());
    until("the service again", async || {
        granted(&client, late).await.then_some(())
    })
    .await;
    assert_eq!(client.get(late, "/").await.status, StatusCode::OK);
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
}

#[tokio::test]
async fn endpoints_of_one_service_leave_the_others_alone() {
    let mesh = Mesh::new();
    let (web, _, ztunnel) = mesh.captured_service(1, "web").await;
    let (late, _) = mesh.http_service(2, "late").await;
    let istiod = ControlPlane::of(&mesh).await;
    let waypoint = mesh.start_under(&istiod).await;
    let load = Load::start(&mesh, &waypoint, web).await;
    istiod.discovery.until_answered().await;
    // One of two services loses its only pod, and gets another.
    mesh.remove_manifest("pod-late-1.yaml");
    istiod.discovery.set(mesh.resources());
    let client = mesh.client(&waypoint, "default", "curl").await;
    until("no endpoint", async || {
        let status = client.get(late, "/").await.status;
        (status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    mesh.describe_pod(2, "late-2", "late", false);
    istiod.discovery.set(mesh.resources());
    until("the other pod", async || {
        (client.get(late, "/").await.status == StatusCode::OK).then_some(())
    })
    .await;
    load.finish().await;
    assert_eq!(ztunnel.connections(), 1);
}

#[tokio::test]
async fn a_listener_that_is_removed_takes_no_more_and_readiness_stays() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (istiod, stream, waypoint, client) = configured(&mesh).await;
    let nonce = stream.push(ResourceType::Listener, &[], &["main_internal"]);
    assert_eq!(stream.verdict(&nonce).await, Ok(()));
    until("no tunnel", async || {
        (!granted(&client, web).await).then_some(())
    })
    .await;
    assert_eq!(waypoint.readiness().await.0, 200, "as Envoy stays LIVE");
    let listener = named(&istiod, ResourceType::Listener, "main_internal");
    let nonce = stream.push(ResourceType::Listener, &[listener], &[]);
    assert_eq!(stream.verdict(&nonce).await, Ok(()));
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
}
