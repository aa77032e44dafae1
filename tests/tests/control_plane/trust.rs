//! An istiod that is away, silent, or not the one that it should be.

use std::time::Duration;

use waypoint_config::resource::ResourceType;
use waypoint_tests::load::Load;
use waypoint_tests::scripted_ca::Signer;
use waypoint_tests::wait::until;
use waypoint_tests::{ControlPlane, Mesh, logs};

#[tokio::test]
async fn an_istiod_that_is_away_is_not_besieged() {
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let waypoint = mesh.start_under(&istiod).await;
    let load = Load::start(&mesh, &waypoint, web).await;
    istiod.away(true);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let ended = [("state", "ended")];
    let tries = waypoint.metric("waypoint_xds_streams_total", &ended).await;
    // 0.2 s, doubled each time, between half and one and a half of it.
    assert!((3.0..=8.0).contains(&tries), "{tries}");
    assert_eq!(waypoint.readiness().await.0, 200);
    istiod.away(false);
    istiod.discovery.stream(1).await;
    load.finish().await;
}

#[tokio::test]
async fn a_silent_istiod_leaves_a_new_pod_unready() {
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    istiod.discovery.by_hand(true);
    let options = mesh.options(istiod.source(), istiod.certificates());
    let waypoint = mesh.try_start_with(options).await.unwrap();
    let stream = istiod.discovery.stream(0).await;
    until("the certificate", async || {
        (istiod.ca.requests() == 1).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (status, reason) = waypoint.readiness().await;
    assert_eq!((status, reason.as_str()), (503, "no configuration yet\n"));
    assert_eq!(
        istiod.discovery.streams(),
        1,
        "waiting is no reason to ask again"
    );
    // Clusters and workloads are asked for at once, the rest when clusters have come.
    let kinds: Vec<_> = stream.requests().into_iter().map(|r| r.type_url).collect();
    let expected = [ResourceType::Cluster, ResourceType::Workload];
    assert_eq!(kinds, expected.map(ResourceType::type_url));
}

#[tokio::test]
async fn a_refused_token_is_read_again() {
    logs::record();
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    istiod.expect_token("token-2");
    let options = mesh.options(istiod.source(), istiod.certificates());
    let waypoint = mesh.try_start_with(options).await.unwrap();
    let address = istiod.address().address;
    for asked in ["the stream to istiod ended", "no certificate yet"] {
        logs::until_line(&["WARN", asked, &address, "no such token"]).await;
    }
    assert_eq!(waypoint.readiness().await.0, 503);
    istiod.write_token("token-2\n");
    waypoint.until_ready().await;
    let tokens = istiod.tokens();
    let old = tokens.iter().filter(|token| *token == "token-1").count();
    assert!(old >= 2 && tokens.len() == old + 2, "{tokens:?}");

    // kubelet rotates it; the stream that is open doesn't care, the next one shows the new one.
    istiod.write_token("token-3");
    istiod.expect_token("token-3");
    istiod.cut();
    istiod.discovery.stream(1).await;
    assert_eq!(istiod.tokens().last().unwrap(), "token-3");
}

#[tokio::test]
async fn istiods_root_and_name_are_checked_and_the_root_is_read_again() {
    logs::record();
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    let istiod = ControlPlane::of(&mesh).await;
    let ours = Signer::open(&mesh.folder().join("ca"));
    istiod.show(&ours, "somebody-else.istio-system.svc");
    let options = mesh.options(istiod.source(), istiod.certificates());
    let waypoint = mesh.try_start_with(options).await.unwrap();
    let address = istiod.address().address;
    logs::until_line(&["the stream to istiod ended", &address, "not valid for"]).await;

    waypoint_hbone::certificates::dev_ca::DevCa::open_or_create(&mesh.folder().join("other-ca"))
        .unwrap();
    let other = Signer::open(&mesh.folder().join("other-ca"));
    istiod.show(&other, waypoint_tests::control_plane::SERVER_NAME);
    let told = [
        "the stream to istiod ended",
        &address,
        "invalid peer certificate: BadSignature",
    ];
    logs::until_line(&told).await;
    assert_eq!(istiod.tokens(), [""; 0], "no token for a stranger");
    istiod.write_root(other.root_pem());
    waypoint.until_ready().await;
}
