//! Keys and roots of TLS to endpoints that lie in files, or are the mesh's own: they are followed.

use std::fs;

use http::StatusCode;
use waypoint_tests::tls_server::{Authority, Pair, Speech};
use waypoint_tests::upstream_tls::named;
use waypoint_tests::wait::until;

use crate::tls::Scene;

const NAME: &str = "api.example.test";

fn write(scene: &Scene, name: &str, text: &str) {
    let partial = scene.mesh.folder().join("partial-pem");
    fs::write(&partial, text).unwrap();
    fs::rename(partial, scene.mesh.folder().join(name)).unwrap();
}

fn path(scene: &Scene, name: &str) -> String {
    scene.mesh.folder().join(name).display().to_string()
}

fn write_pair(scene: &Scene, pair: &Pair) {
    write(scene, "client.pem", &pair.chain);
    write(scene, "client-key.pem", &pair.key);
}

#[tokio::test]
async fn roots_and_keys_follow_their_files() {
    let clients = Authority::new("clients");
    let scene = Scene::new(Speech::default()).await;
    let asks = || Speech {
        clients: Some(clients.root().to_owned()),
        ..Speech::default()
    };
    scene.server.show(&scene.ca.issue(&[NAME]), &asks());
    write(&scene, "roots.pem", scene.ca.root());
    write_pair(&scene, &clients.issue(&["first.test"]));
    let (cert, key) = (path(&scene, "client.pem"), path(&scene, "client-key.pem"));
    let tls = named(
        NAME,
        Some(&format!("file-cert:{cert}~{key}")),
        &format!("file-root:{}", path(&scene, "roots.pem")),
        &[NAME],
    );
    let (_istiod, _waypoint, client) = scene.started(&tls).await;
    assert_eq!(client.get(scene.to, "/first").await.status, StatusCode::OK);
    let first = scene.server.greeted().last().unwrap().client.clone();

    // The server's authority changes, and so do the client's certificate and the roots.
    let next = Authority::new("next");
    write_pair(&scene, &clients.issue(&["second.test"]));
    scene.server.show(&next.issue(&[NAME]), &asks());
    let own = clients.issue(&["second.test"]);
    write_pair(&scene, &own);
    write(&scene, "roots.pem", next.root());
    // The connection that stands is used as long as it does.
    assert_eq!(client.get(scene.to, "/kept").await.status, StatusCode::OK);
    assert_eq!(scene.server.greeted().len(), 1);
    scene.server.hang_up();
    until("the new roots and the new key", async || {
        let answer = client.get(scene.to, "/second").await;
        let shown = scene.server.greeted().last().unwrap().client.clone();
        (answer.status == StatusCode::OK && shown != first).then_some(())
    })
    .await;

    // What can't be read leaves what was.
    write(&scene, "roots.pem", "no roots");
    fs::remove_file(scene.mesh.folder().join("client.pem")).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    scene.server.hang_up();
    until("what was", async || {
        let answer = client.get(scene.to, "/third").await;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    assert!(scene.server.greeted().len() >= 3);
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_closes_the_way_until_it_is() {
    let scene = Scene::new(Speech::default()).await;
    let roots = format!("file-root:{}", path(&scene, "later.pem"));
    let (_istiod, waypoint, client) = scene.started(&named(NAME, None, &roots, &[NAME])).await;
    let answer = client.get(scene.to, "/early").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let line = waypoint.until_logged("/early").await;
    assert!(
        line.starts_with("/early 503 URX,UF - - ") && line.contains("later.pem"),
        "{line}"
    );
    let name = "waypoint_upstream_tls_handshakes_total";
    assert!(waypoint.metric(name, &[("result", "no_secret")]).await >= 1.0);
    write(&scene, "later.pem", scene.ca.root());
    until("the roots", async || {
        (client.get(scene.to, "/").await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_workloads_own_certificate_and_roots_are_those_of_the_mesh() {
    let scene = Scene::new(Speech::default()).await;
    let own = scene.mesh.certificate("default", "web");
    let pair = Pair {
        chain: own.chain_pem().to_owned(),
        key: own.key_pem().to_owned(),
    };
    let root = fs::read_to_string(scene.mesh.folder().join("ca/root-cert.pem")).unwrap();
    let asks = Speech {
        clients: Some(root),
        ..Speech::default()
    };
    scene.server.show(&pair, &asks);
    let (_istiod, _waypoint, client) = scene
        .started(&named(
            "outbound_.80_._.web.test",
            Some("default"),
            "ROOTCA",
            &[],
        ))
        .await;
    assert_eq!(client.get(scene.to, "/").await.status, StatusCode::OK);
    let greeted = scene.server.greeted();
    assert!(greeted[0].client.is_some());
    assert_eq!(greeted[0].sni.as_deref(), Some("outbound_.80_._.web.test"));
}
