//! Keys of tokens that are fetched over HTTPS: from whom, and from whom not.

use std::fs;
use std::net::SocketAddr;

use http::{Method, StatusCode};
use waypoint_tests::Mesh;
use waypoint_tests::name_server::NameServer;
use waypoint_tests::tls_server::{Authority, Speech, TlsServer};
use waypoint_tests::tokens::{Signer, claims, key_set};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::request;

const ISSUER: &str = "https://issuer.test";

fn tokens(uri: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: jwt, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], jwtRules: [{{issuer: '{ISSUER}', jwksUri: '{uri}'}}]}}\n"
    )
}

#[tokio::test]
async fn keys_come_from_the_host_that_they_are_asked_of_and_from_nobody_else() {
    let signer = Signer::new("ES256", "k1");
    let (system, others) = (Authority::new("public"), Authority::new("strangers"));
    for by_name in [true, false] {
        let mesh = Mesh::new();
        let (to, _) = mesh.http_service(1, "web").await;
        let address = mesh.pod_ip(2);
        let port = 8443;
        let server = TlsServer::start(
            SocketAddr::new(address, port),
            &others.issue(&["keys.outside.test"]),
            Speech::default(),
        )
        .await;
        server.answer(&key_set(&[&signer]));
        let names = NameServer::start().await;
        names.set("keys.outside.test", &[address], 60);
        let host = match by_name {
            true => "keys.outside.test".to_owned(),
            false => address.to_string(),
        };
        mesh.manifest(
            "tokens.yaml",
            &tokens(&format!("https://{host}:{port}/keys")),
        );
        let roots = mesh.folder().join("system-roots.pem");
        fs::write(&roots, system.root()).unwrap();
        let waypoint = mesh
            .start_with(|options| {
                options.dns_servers = vec![names.address];
                options.system_roots = Some(roots);
            })
            .await;
        let client = mesh.client(&waypoint, "default", "curl").await;
        let bearer = format!("Bearer {}", signer.token(&claims(ISSUER, "a")));
        let status = async || {
            let asked = request(Method::GET, "/", &[("authorization", &bearer)]);
            client.request(to, asked).await.status
        };
        waypoint.until_problem("CERTIFICATE_VERIFY_FAILED").await;
        assert_eq!(status().await, StatusCode::UNAUTHORIZED);
        // Of the system's roots, for another host.
        server.show(&system.issue(&["elsewhere.test"]), &Speech::default());
        waypoint.until_problem("SAN matcher").await;
        assert_eq!(status().await, StatusCode::UNAUTHORIZED);
        assert_eq!(server.requests(), Vec::<String>::new());

        server.show(&system.issue(&[&host]), &Speech::default());
        until("keys", async || {
            (status().await == StatusCode::OK).then_some(())
        })
        .await;
        assert_eq!(server.requests(), ["/keys"]);
        let sni = server.greeted()[0].sni.clone();
        assert_eq!(sni, by_name.then(|| host.clone()));
    }
}

#[tokio::test]
async fn keys_come_from_a_service_of_the_mesh_over_its_own_tls() {
    const HOST: &str = "keys.default.svc.cluster.local";
    let signer = Signer::new("ES256", "k1");
    let system = Authority::new("public");
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    mesh.describe_pod(2, "keys-1", "keys", false);
    let port = "{name: https, port: 443, targetPort: 8080}";
    let _ = mesh.service_with_port(2, "keys", port);
    let own = system.issue(&[HOST]);
    let server = TlsServer::start(mesh.backend(2), &own, Speech::default()).await;
    server.answer(&key_set(&[&signer]));
    mesh.manifest("tokens.yaml", &tokens(&format!("https://{HOST}/keys")));
    let roots = mesh.folder().join("system-roots.pem");
    fs::write(&roots, system.root()).unwrap();
    let waypoint = mesh
        .start_with(|options| options.system_roots = Some(roots))
        .await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let bearer = format!("Bearer {}", signer.token(&claims(ISSUER, "a")));
    until("keys", async || {
        let asked = request(Method::GET, "/", &[("authorization", &bearer)]);
        let status = client.request(to, asked).await.status;
        (status == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(server.requests(), ["/keys"]);
    assert_eq!(server.greeted()[0].sni.as_deref(), Some(HOST));
    assert_eq!(waypoint.problems().await, "");
}
