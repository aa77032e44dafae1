//! TLS to endpoints with credentials of Secrets and ConfigMaps on disk, and BackendTLSPolicies.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use waypoint_tests::tls_server::{Authority, Pair, Speech, TlsServer};
use waypoint_tests::wait::until;
use waypoint_tests::{Mesh, Ztunnel};

const NAME: &str = "api.example.test";

fn rule(tls: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: default}}\n\
         spec: {{host: web, trafficPolicy: {{tls: {{{tls}, sni: {NAME}, subjectAltNames: [{NAME}]}}}}}}\n"
    )
}

fn secret(roots: &str, pair: &Pair) -> String {
    let [roots, chain, key] = [roots, &pair.chain, &pair.key].map(|text| STANDARD.encode(text));
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: default}}\ntype: kubernetes.io/tls\n\
         data: {{ca.crt: {roots}, tls.crt: {chain}, tls.key: {key}}}\n"
    )
}

fn config_map(roots: &str) -> String {
    let roots = roots.trim().replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: default}}\ndata:\n  ca.crt: |\n    {roots}\n"
    )
}

fn policy(name: &str, created: &str, rest: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}, namespace: default, creationTimestamp: {created}}}\n\
         spec:\n  targetRefs: [{{group: '', kind: Service, name: web}}]\n  validation: {{hostname: {NAME}, {rest}}}\n"
    )
}

async fn scene(speech: Speech) -> (Mesh, SocketAddr, Authority, TlsServer) {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    let ca = Authority::new("servers");
    let server = TlsServer::start(backend, &ca.issue(&[NAME]), speech).await;
    (mesh, to, ca, server)
}

async fn until_status(client: &Ztunnel, to: SocketAddr, server: &TlsServer, status: StatusCode) {
    until(&format!("answers {status}"), async || {
        server.hang_up();
        (client.get(to, "/").await.status == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_secret_on_disk_is_a_rules_credential_and_is_followed() {
    let clients = Authority::new("clients");
    let asks = || Speech {
        clients: Some(clients.root().to_owned()),
        ..Speech::default()
    };
    let (mesh, to, ca, server) = scene(asks()).await;
    mesh.manifest("rule.yaml", &rule("mode: MUTUAL, credentialName: keys"));
    let (waypoint, client) = mesh.started().await;
    // Without it connections fail at once, and it is told.
    let problems = waypoint.problems().await;
    for part in [
        "DestinationRule default/web (closed what it targets): spec.trafficPolicy.tls.credentialName: connections fail: no Secret default/keys",
        "secret \"kubernetes://keys\": isn't there",
    ] {
        assert!(problems.contains(part), "{problems}");
    }
    let answer = client.get(to, "/early").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let line = waypoint.until_logged("/early").await;
    let why = "|TLS_error:_Secret_is_not_supplied_by_SDS}";
    assert!(line.contains(why), "{line}");
    let pair = clients.issue(&["first.test"]);
    mesh.manifest("secret.yaml", &secret(ca.root(), &pair));
    until_status(&client, to, &server, StatusCode::OK).await;
    assert_eq!(waypoint.problems().await, "");
    let first = server.greeted().last().unwrap().client.clone();
    let second = clients.issue(&["second.test"]);
    mesh.manifest("secret.yaml", &secret(ca.root(), &second));
    until("the other key", async || {
        server.hang_up();
        let answer = client.get(to, "/").await;
        let shown = server.greeted().last().unwrap().client.clone();
        (answer.status == StatusCode::OK && shown != first).then_some(())
    })
    .await;
    // Half a pair is refused by name, and leaves what was; nothing of it is told.
    let odd = Pair {
        chain: pair.chain.clone(),
        key: second.key.clone(),
    };
    mesh.manifest("secret.yaml", &secret(ca.root(), &odd));
    let problems = waypoint.until_problem("doesn't belong").await;
    let hidden = second.key.lines().nth(1).unwrap();
    assert!(problems.contains("kubernetes://keys: ") && !problems.contains(hidden));
    until_status(&client, to, &server, StatusCode::OK).await;
    let dump = waypoint.admin("/config_dump").await;
    let hidden = STANDARD.encode(&second.key);
    assert!(dump.contains("kubernetes://keys-cacert") && !dump.contains(&hidden[..64]));
    // What is broken as a file is told without its lines, too.
    mesh.manifest(
        "secret.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {key: hidden-value, cert: [hidden-value\n",
    );
    let problems = waypoint.until_problem("secret.yaml").await;
    assert!(!problems.contains("hidden-value"), "{problems}");
}

#[tokio::test]
async fn a_backend_tls_policy_trusts_a_config_map_and_the_older_of_two_stands() {
    let (mesh, to, ca, server) = scene(Speech::default()).await;
    let of_map = "caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]";
    let names =
        |name: &str| format!("{of_map}, subjectAltNames: [{{type: Hostname, hostname: {name}}}]");
    mesh.manifest("roots.yaml", &config_map(ca.root()));
    let old = "\"2024-01-01T00:00:00Z\"";
    mesh.manifest("policy.yaml", &policy("b", old, &names(NAME)));
    let younger = policy("a", "\"2025-01-01T00:00:00Z\"", &names("other.test"));
    mesh.manifest("younger.yaml", &younger);
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    assert_eq!(server.greeted()[0].sni.as_deref(), Some(NAME));
    let problems = waypoint.problems().await;
    assert!(
        problems.contains(
            "BackendTLSPolicy default/a (no effect): spec.targetRefs[0]: that of default/b stands"
        ),
        "{problems}"
    );
    // Names that the server hasn't; roots that aren't its own; none at all.
    mesh.remove_manifest("policy.yaml");
    until_status(&client, to, &server, StatusCode::SERVICE_UNAVAILABLE).await;
    mesh.remove_manifest("younger.yaml");
    mesh.manifest("policy.yaml", &policy("b", old, &names(NAME)));
    until_status(&client, to, &server, StatusCode::OK).await;
    mesh.manifest("roots.yaml", &config_map(Authority::new("others").root()));
    until_status(&client, to, &server, StatusCode::SERVICE_UNAVAILABLE).await;
    mesh.manifest("roots.yaml", &config_map(ca.root()));
    until_status(&client, to, &server, StatusCode::OK).await;
    mesh.manifest(
        "policy.yaml",
        &policy(
            "b",
            old,
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: nowhere}]",
        ),
    );
    until_status(&client, to, &server, StatusCode::SERVICE_UNAVAILABLE).await;
    let problems = waypoint.problems().await;
    assert!(
        problems.contains("(closed what it targets): spec.validation.caCertificateRefs[0]: connections fail: no ConfigMap default/nowhere"),
        "{problems}"
    );
}

#[tokio::test]
async fn a_policy_may_be_for_one_port() {
    let (mesh, to, _ca, server) = scene(Speech::default()).await;
    // Any other port than the one that the server speaks TLS on.
    let text = policy(
        "p",
        "\"2024-01-01T00:00:00Z\"",
        "wellKnownCACertificates: System",
    )
    .replace("name: web}", "name: web, sectionName: nowhere}");
    mesh.manifest("policy.yaml", &text);
    let (waypoint, client) = mesh.started().await;
    let problems = waypoint.problems().await;
    assert!(
        problems.contains("BackendTLSPolicy default/p (no effect): spec.targetRefs[0]: it has no port named \"nowhere\""),
        "{problems}"
    );
    // In the clear, which the server doesn't speak.
    let answer = client.get(to, "/").await;
    assert_ne!(answer.status, StatusCode::OK);
    assert_eq!(server.greeted(), []);
    let own = text.replace("sectionName: nowhere", "sectionName: http");
    mesh.manifest("policy.yaml", &own);
    // The system doesn't know the server's authority.
    until("TLS on the port", async || {
        let problems = waypoint.problems().await;
        let answer = client.get(to, "/").await;
        (problems.is_empty() && answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
}

#[tokio::test]
async fn files_are_a_rules_credential_and_a_list_in_one_revokes() {
    let clients = Authority::new("clients");
    let speech = || Speech {
        clients: Some(clients.root().to_owned()),
        ..Speech::default()
    };
    let (mesh, to, ca, server) = scene(speech()).await;
    let file = |name: &str, text: &str| {
        let path = mesh.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let pair = clients.issue(&["waypoint.test"]);
    let keys = format!(
        "mode: MUTUAL, clientCertificate: {}, privateKey: {}, caCertificates: {}",
        file("client.pem", &pair.chain),
        file("client.key", &pair.key),
        file("roots.pem", ca.root()),
    );
    mesh.manifest("rule.yaml", &rule(&keys));
    let (waypoint, client) = mesh.started().await;
    server.show(&ca.numbered(&[NAME], 7), &speech());
    until_status(&client, to, &server, StatusCode::OK).await;
    let revoked = file("revoked.pem", &ca.revoking(&[7]));
    mesh.manifest("rule.yaml", &rule(&format!("{keys}, caCrl: {revoked}")));
    until_status(&client, to, &server, StatusCode::SERVICE_UNAVAILABLE).await;
    until("why", async || {
        waypoint.log().contains("certificate_revoked").then_some(())
    })
    .await;
    server.show(&ca.numbered(&[NAME], 8), &speech());
    until_status(&client, to, &server, StatusCode::OK).await;
    assert_eq!(waypoint.problems().await, "");
}
