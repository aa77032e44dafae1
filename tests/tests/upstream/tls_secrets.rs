//! Keys and roots of TLS to endpoints that an istiod delivers by name: they are asked for, followed, and told of where they are missing.

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext;
use http::StatusCode;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::tls_server::{Authority, Speech};
use waypoint_tests::upstream_tls::{
    delivered, inline, key_secret, roots_secret, trusting, validation_secret, with_tls,
};
use waypoint_tests::wait::until;
use waypoint_tests::{ControlPlane, Waypoint, Ztunnel};

use crate::tls::Scene;

const NAME: &str = "api.example.test";
const KEY: &str = "kubernetes://web";
const ROOTS: &str = "kubernetes://web-cacert";

/// The mesh's resources, whose service asks for a key, perhaps, and for roots by name. Made once: maps have no order.
fn asking(scene: &Scene, key: Option<&str>) -> Vec<Resource> {
    with_tls(&scene.mesh, "web", &delivered(NAME, key, ROOTS, &[NAME]))
}

fn with(asking: &[Resource], secrets: &[Resource]) -> Vec<Resource> {
    asking.iter().chain(secrets).cloned().collect()
}

/// The mesh under an istiod that has these secrets.
async fn started(
    scene: &Scene,
    asking: &[Resource],
    secrets: &[Resource],
) -> (ControlPlane, Waypoint, Ztunnel) {
    let istiod = ControlPlane::start(&scene.mesh).await;
    istiod.discovery.set(with(asking, secrets));
    let (waypoint, client) = scene.mesh.started_under(&istiod).await;
    (istiod, waypoint, client)
}

#[tokio::test]
async fn secrets_come_by_name_and_are_followed_without_a_lost_connection() {
    let clients = Authority::new("clients");
    let scene = Scene::new(Speech::default()).await;
    let asks = || Speech {
        clients: Some(clients.root().to_owned()),
        ..Speech::default()
    };
    scene.server.show(&scene.ca.issue(&[NAME]), &asks());
    let first = clients.issue(&["first.test"]);
    let secrets = [
        key_secret(KEY, &first),
        roots_secret(ROOTS, scene.ca.root()),
    ];
    let asking = asking(&scene, Some(KEY));
    let (istiod, waypoint, client) = started(&scene, &asking, &secrets).await;
    // No first request fails for a secret that is on its way.
    assert_eq!(client.get(scene.to, "/first").await.status, StatusCode::OK);
    let shown = |scene: &Scene| scene.server.greeted().last().unwrap().client.clone();
    let before = shown(&scene);
    assert!(before.is_some());
    let stream = istiod.discovery.stream(0).await;
    let asked = stream.subscription(ResourceType::Secret, |_| true).await;
    assert_eq!(asked.resource_names_subscribe, [KEY, ROOTS]);
    assert_eq!(waypoint.problems().await, "");

    // Another key, and other roots: what stands stays, what is new has them.
    let next = Authority::new("next");
    let second = clients.issue(&["second.test"]);
    let secrets = [key_secret(KEY, &second), roots_secret(ROOTS, next.root())];
    scene.server.show(&next.issue(&[NAME]), &asks());
    istiod.discovery.set(with(&asking, &secrets));
    istiod.discovery.until_answered().await;
    assert_eq!(client.get(scene.to, "/kept").await.status, StatusCode::OK);
    assert_eq!(scene.server.greeted().len(), 1);
    scene.server.hang_up();
    until("a connection with the new ones", async || {
        let answer = client.get(scene.to, "/second").await;
        (answer.status == StatusCode::OK && shown(&scene) != before).then_some(())
    })
    .await;
    assert_eq!(istiod.discovery.refusals(), Vec::<String>::new());

    // Nothing of the key is shown.
    let dump = waypoint.admin("/config_dump").await;
    let body = second.key.lines().nth(1).unwrap();
    assert!(dump.contains(KEY) && dump.contains(ROOTS), "{dump}");
    assert!(!dump.contains(body) && dump.contains("[redacted]"));
}

#[tokio::test]
async fn a_secret_that_is_not_there_fails_connections_and_is_told_until_it_comes() {
    let scene = Scene::new(Speech::default()).await;
    let asking = asking(&scene, None);
    let (istiod, waypoint, client) = started(&scene, &asking, &[]).await;
    waypoint.until_problem(ROOTS).await;
    let name = "waypoint_secrets_awaited";
    waypoint.until_metric(name, &[], 1.0).await;
    // The connection waits as long as it may.
    let answer = client.get(scene.to, "/early").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(scene.server.greeted(), []);
    istiod
        .discovery
        .set(with(&asking, &[roots_secret(ROOTS, scene.ca.root())]));
    until("the roots", async || {
        (client.get(scene.to, "/").await.status == StatusCode::OK).then_some(())
    })
    .await;
    waypoint.until_metric(name, &[], 0.0).await;
    assert_eq!(waypoint.problems().await, "");
}

#[tokio::test]
async fn one_that_istiod_says_is_not_there_is_not_waited_for() {
    let scene = Scene::new(Speech::default()).await;
    // One of both is there: the answer names the other as removed.
    let pair = Authority::new("clients").issue(&["first.test"]);
    let asking = asking(&scene, Some(KEY));
    let (_istiod, waypoint, client) = started(&scene, &asking, &[key_secret(KEY, &pair)]).await;
    waypoint.until_problem(ROOTS).await;
    let answer = client.get(scene.to, "/early").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        answer
            .text()
            .ends_with("reset reason: remote connection failure"),
        "{}",
        answer.text()
    );
    let line = waypoint.until_logged("/early").await;
    assert_eq!(
        line,
        "/early 503 URX,UF - - TLS_error:_Secret_is_not_supplied_by_SDS"
    );
    let name = "waypoint_upstream_tls_handshakes_total";
    assert!(waypoint.metric(name, &[("result", "no_secret")]).await >= 1.0);
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_by_name_and_what_was_before_stays() {
    let scene = Scene::new(Speech::default()).await;
    let good = roots_secret(ROOTS, scene.ca.root());
    let asking = asking(&scene, None);
    let (istiod, waypoint, client) = started(&scene, &asking, std::slice::from_ref(&good)).await;
    assert_eq!(client.get(scene.to, "/").await.status, StatusCode::OK);
    let pair = Authority::new("clients").issue(&["first.test"]);
    let names = trusting(scene.ca.root(), &[NAME]);
    for (bad, told) in [
        (
            roots_secret(ROOTS, "no roots"),
            "validation_context.trusted_ca",
        ),
        (
            key_secret(ROOTS, &pair),
            "is a certificate with its key, where roots are asked for",
        ),
        (
            validation_secret(ROOTS, names),
            "match_typed_subject_alt_names",
        ),
    ] {
        istiod.discovery.set(with(&asking, &[bad]));
        let problem = waypoint.until_problem(told).await;
        assert!(problem.contains(ROOTS), "{problem}");
        until("a refusal", async || {
            let refusals = istiod.discovery.refusals();
            refusals
                .iter()
                .any(|refusal| refusal.contains(ROOTS) && refusal.contains(told))
                .then_some(())
        })
        .await;
        scene.server.hang_up();
        until("what was before", async || {
            (client.get(scene.to, "/").await.status == StatusCode::OK).then_some(())
        })
        .await;
    }
    let dump = waypoint
        .admin("/config_dump?resource=dynamic_active_secrets")
        .await;
    assert!(dump.contains("error_state"), "{dump}");
    assert!(!dump.contains(pair.key.lines().nth(1).unwrap()));
}

#[tokio::test]
async fn what_is_taken_away_stays_in_use_and_what_nobody_asks_for_is_given_up() {
    let scene = Scene::new(Speech::default()).await;
    let good = roots_secret(ROOTS, scene.ca.root());
    let asking = asking(&scene, None);
    let (istiod, waypoint, client) = started(&scene, &asking, std::slice::from_ref(&good)).await;
    assert_eq!(client.get(scene.to, "/").await.status, StatusCode::OK);
    let stream = istiod.discovery.stream(0).await;
    let nonce = stream.push(ResourceType::Secret, &[], &[ROOTS]);
    assert_eq!(stream.verdict(&nonce).await, Ok(()));
    scene.server.hang_up();
    until("the roots, still", async || {
        (client.get(scene.to, "/").await.status == StatusCode::OK).then_some(())
    })
    .await;
    // The cluster has its roots in itself now.
    let own = waypoint_tests::upstream_tls::context(NAME, trusting(scene.ca.root(), &[NAME]));
    istiod.discovery.set(with_tls(&scene.mesh, "web", &own));
    let given_up = stream
        .subscription(ResourceType::Secret, |request| {
            !request.resource_names_unsubscribe.is_empty()
        })
        .await;
    assert_eq!(given_up.resource_names_unsubscribe, [ROOTS]);
    assert_eq!(waypoint.problems().await, "");
    until("no such secret", async || {
        let dump = waypoint.admin("/config_dump").await;
        (!dump.contains(ROOTS)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn servers_that_a_delivered_list_revokes_are_refused() {
    let scene = Scene::new(Speech::default()).await;
    let pair = scene.ca.numbered(&[NAME], 7);
    scene.server.show(&pair, &Speech::default());
    let with_list = |list: String| CertificateValidationContext {
        crl: Some(inline(&list)),
        ..trusting(scene.ca.root(), &[])
    };
    let asking = asking(&scene, None);
    let (istiod, waypoint, client) = started(
        &scene,
        &asking,
        &[validation_secret(ROOTS, with_list(scene.ca.revoking(&[])))],
    )
    .await;
    assert_eq!(client.get(scene.to, "/good").await.status, StatusCode::OK);
    for (path, list, told) in [
        ("/revoked", scene.ca.revoking(&[7]), "certificate revoked"),
        (
            "/stranger",
            Authority::new("strangers").revoking(&[]),
            "unable to get certificate CRL",
        ),
    ] {
        istiod
            .discovery
            .set(with(&asking, &[validation_secret(ROOTS, with_list(list))]));
        istiod.discovery.until_answered().await;
        scene.server.hang_up();
        until(told, async || {
            let answer = client.get(scene.to, path).await;
            (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
        })
        .await;
        until(told, async || {
            let log = waypoint.log();
            log.contains(&told.replace(' ', "_")).then_some(())
        })
        .await;
    }
}
