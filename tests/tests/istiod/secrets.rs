//! TLS to endpoints with credentials by name: an istiod serves them out of Secrets and ConfigMaps.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use waypoint_tests::istiod::{Istiod, Pod};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::tls_server::{Authority, Pair, Speech, TlsServer};
use waypoint_tests::wait::until;
use waypoint_tests::{Mesh, Ztunnel};

const NAME: &str = "api.example.test";

fn secret(name: &str, roots: &str, pair: &Pair) -> String {
    let [roots, chain, key] = [roots, &pair.chain, &pair.key].map(|text| STANDARD.encode(text));
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\ntype: kubernetes.io/tls\n\
         data: {{ca.crt: {roots}, tls.crt: {chain}, tls.key: {key}}}\n"
    )
}

fn config_map(name: &str, roots: &str) -> String {
    let roots = roots.replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata:\n  ca.crt: |\n    {roots}\n"
    )
}

async fn until_answered(client: &Ztunnel, to: std::net::SocketAddr, path: &str) {
    until(path, async || {
        let (status, _) = client.connect_to(&to.to_string(), &[]).await.ok()?;
        if status != StatusCode::OK {
            return None;
        }
        (client.get(to, path).await.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_destination_rules_credential_comes_by_name_and_is_followed() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let asks = || Speech {
        clients: Some(clients.root().to_owned()),
        ..Speech::default()
    };
    let server = TlsServer::start(backend, &servers.issue(&[NAME]), asks()).await;
    mesh.manifest(
        "rule.yaml",
        &format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: default}}\n\
             spec: {{host: web.default.svc.cluster.local, trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: keys, sni: {NAME}, subjectAltNames: [{NAME}]}}}}}}\n"
        ),
    );
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    // There is no such Secret yet.
    until("the missing secret is told", async || {
        let (_, problems) = http_get(pod.admin, "/problems").await;
        (problems.contains("kubernetes://keys-cacert") && problems.contains("kubernetes://keys\""))
            .then_some(())
    })
    .await;
    let client = super::load::client(&mesh, &pod).await;
    mesh.manifest(
        "secret.yaml",
        &secret("keys", servers.root(), &clients.issue(&["first.test"])),
    );
    until_answered(&client, to, "/first").await;
    let shown = || server.greeted().last().unwrap().client.clone();
    let first = shown();
    assert!(first.is_some());
    assert_eq!(http_get(pod.admin, "/problems").await.1, "");
    // Both change.
    let next = Authority::new("next");
    server.show(&next.issue(&[NAME]), &asks());
    let second = clients.issue(&["second.test"]);
    mesh.manifest("secret.yaml", &secret("keys", next.root(), &second));
    until("the new ones", async || {
        server.hang_up();
        let answer = client.get(to, "/second").await;
        (answer.status == StatusCode::OK && shown() != first).then_some(())
    })
    .await;
    let (_, dump) = http_get(pod.admin, "/config_dump").await;
    assert!(dump.contains("kubernetes://keys-cacert"));
    let private = STANDARD.encode(&second.key);
    assert!(!dump.contains(&private[..64]) && dump.contains("W3JlZGFjdGVkXQ=="));
    // A Secret that is gone leaves what it gave.
    mesh.remove_manifest("secret.yaml");
    istiod.until_synced().await;
    server.hang_up();
    until_answered(&client, to, "/third").await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn a_backend_tls_policys_roots_come_from_a_config_map() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    let servers = Authority::new("servers");
    let server = TlsServer::start(backend, &servers.issue(&[NAME]), Speech::default()).await;
    mesh.manifest("roots.yaml", &config_map("roots", servers.root()));
    let policy = |roots: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: web, namespace: default}}\n\
             spec:\n  targetRefs: [{{group: '', kind: Service, name: web}}]\n  validation:\n    hostname: {NAME}\n    \
             caCertificateRefs: [{{group: '', kind: ConfigMap, name: {roots}}}]\n    subjectAltNames: [{{type: Hostname, hostname: {NAME}}}]\n"
        )
    };
    mesh.manifest("policy.yaml", &policy("roots"));
    let istiod = Istiod::start(&mesh);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    let client = super::load::client(&mesh, &pod).await;
    until_answered(&client, to, "/first").await;
    assert_eq!(server.greeted()[0].sni.as_deref(), Some(NAME));
    // A reference that leads nowhere lets nobody through.
    mesh.manifest("policy.yaml", &policy("nowhere"));
    until("no answers", async || {
        server.hang_up();
        let answer = client.get(to, "/closed").await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    until("why", async || {
        let (_, problems) = http_get(pod.admin, "/problems").await;
        problems.contains("can't be used").then_some(())
    })
    .await;
}
