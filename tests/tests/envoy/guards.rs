//! Guards of a folder, as the translator writes them, given to real Envoy, too: tokens whose keys are fetched, and providers
//! that are asked about requests and connections.

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::ext_authz::{Authorizer, HttpAuthorizer, HttpReply, check};
use waypoint_tests::key_server::{Answers, KeyServer};
use waypoint_tests::tokens::{Signer, claims, key_set};
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, Mesh, Ztunnel};

const ISSUER: &str = "https://issuer.test";
/// `PERMISSION_DENIED` of gRPC.
const DENIED: i32 = 7;

fn manifests(keys: std::net::SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    extensionProviders:\n\
         \x20   - {{name: ask-grpc, envoyExtAuthzGrpc: {{service: grpc.default.svc.cluster.local, port: 80, clearRouteCache: true}}}}\n\
         \x20   - {{name: ask-http, envoyExtAuthzHttp: {{service: http.default.svc.cluster.local, port: 80, pathPrefix: /check, \
         includeRequestHeadersInCheck: [x-user], headersToUpstreamOnAllow: ['x-auth-*']}}}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: jwt, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], jwtRules: [{{issuer: '{ISSUER}', jwksUri: 'http://{keys}/keys'}}]}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: who, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], action: DENY, rules: [{{from: [{{source: {{notRequestPrincipals: ['*']}}}}], to: [{{operation: {{paths: [/who]}}}}]}}]}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: login, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: web}}], action: CUSTOM, provider: {{name: ask-http}}, rules: [{{to: [{{operation: {{paths: [/login]}}}}]}}]}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: db, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: db}}], action: CUSTOM, provider: {{name: ask-grpc}}, rules: [{{}}]}}\n"
    )
}

/// Whether a connection is handed on. Envoy asks once it has seen that its first bytes aren't those of HTTP, and lets the
/// other side speak meanwhile.
async fn echoed(client: &Ztunnel, to: std::net::SocketAddr) -> bool {
    let mut stream = client.tunnel(to).await;
    let mut bytes = [b'\n'; 100];
    let _ = stream.write_all(&bytes).await;
    within("an echo or the end", stream.read_exact(&mut bytes))
        .await
        .is_ok()
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn guards_of_a_folder_do_the_same_in_envoy() {
    let signer = Signer::new("RS256", "k1");
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (db, backend) = mesh.bare_tcp_service(2, "db");
    App::tcp(backend, |mut tcp| async move {
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let (_, backend) = mesh.bare_service(3, "http");
    let http = HttpAuthorizer::start(backend).await;
    mesh.describe_pod(4, "grpc-1", "grpc", false);
    mesh.service_with_port(4, "grpc", "{name: grpc, port: 80, targetPort: 8080}");
    let grpc = Authorizer::start(mesh.backend(4)).await;
    let _keys = KeyServer::start(mesh.backend(5), Answers::With(key_set(&[&signer]))).await;
    mesh.manifest("guards.yaml", &manifests(mesh.backend(5)));
    let (_waypoint, ours) = mesh.started().await;
    let (_envoy, beside) = Envoy::beside(&mesh, &mesh.resources()).await;
    let certificate = mesh.certificate("default", "curl");
    let theirs = Ztunnel::connect(beside, &certificate).await.unwrap();

    for (code, passes) in [(0, true), (DENIED, false)] {
        grpc.says(check(code));
        for (whose, client) in [("ours", &ours), ("Envoy's", &theirs)] {
            assert_eq!(echoed(client, db).await, passes, "{whose}");
            assert_eq!(grpc.take().len(), 1);
        }
    }

    let good = format!("Bearer {}", signer.token(&claims(ISSUER, "a")));
    let forged = Signer::new("RS256", "k1").token(&claims(ISSUER, "a"));
    let forged = format!("Bearer {forged}");
    for client in [&ours, &theirs] {
        until("keys", async || {
            let asked = request(Method::GET, "/who", &[("authorization", &good)]);
            (client.request(web, asked).await.status == StatusCode::OK).then_some(())
        })
        .await;
    }
    http.replies(HttpReply::new(200, &[("x-auth-id", "7")], ""));
    for (allowed, path, headers) in [
        (true, "/who", vec![]),
        (true, "/who", vec![("authorization", good.as_str())]),
        (true, "/", vec![("authorization", forged.as_str())]),
        (true, "/", vec![]),
        (true, "/login", vec![("x-user", "ana"), ("x-more", "no")]),
        (false, "/login", vec![("x-user", "ana")]),
        (false, "/", vec![]),
    ] {
        if !allowed {
            http.replies(HttpReply::new(418, &[], "no tea"));
        }
        let mut answers = Vec::new();
        for client in [&ours, &theirs] {
            let answer = client
                .request(web, request(Method::GET, path, &headers))
                .await;
            let asked = http.take().into_iter();
            let asked: Vec<_> = asked
                .map(|seen| {
                    (
                        seen.target.clone(),
                        seen.header("x-user"),
                        seen.header("x-more"),
                    )
                })
                .collect();
            answers.push((answer.status, answer.text(), asked));
        }
        assert_eq!(answers[0], answers[1], "{path} {headers:?}");
    }
}
