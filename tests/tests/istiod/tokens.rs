//! RequestAuthentication whose keys istiod leaves to the waypoint to fetch.

use http::{Method, StatusCode};
use waypoint_tests::Mesh;
use waypoint_tests::istiod::{Istiod, Pod};
use waypoint_tests::key_server::{Answers, KeyServer};
use waypoint_tests::telemetry::http_get;
use waypoint_tests::tokens::{Signer, claims, key_set};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::request;

use crate::load::client;

const ISSUER: &str = "https://issuer.test";

/// On the Gateway: for one on a Service istiod names the same cluster, and doesn't send it.
const JWT: &str = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: jwt, namespace: default}\n\
    spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}], jwtRules: [{issuer: 'https://issuer.test', \
    jwksUri: 'http://keys.default.svc.cluster.local/jwks'}]}\n";

#[tokio::test]
#[ignore = "needs istiod"]
async fn keys_are_fetched_where_istiod_leaves_that_to_proxies() {
    let signer = Signer::new("RS256", "k1");
    let mesh = Mesh::new();
    let (web, app) = mesh.http_service(1, "web").await;
    let (_, backend) = mesh.bare_service(2, "keys");
    let server = KeyServer::start(backend, Answers::With(key_set(&[&signer]))).await;
    mesh.manifest("jwt.yaml", JWT);
    let istiod = Istiod::start_with(&mesh, &[("PILOT_JWT_ENABLE_REMOTE_JWKS", "envoy")]);
    let pod = Pod::start(&mesh, &istiod, 240);
    pod.until_ready().await;
    istiod.until_synced().await;
    let client = client(&mesh, &pod).await;
    let show = async |token: &str| {
        let bearer = format!("Bearer {token}");
        let asked = request(Method::GET, "/", &[("authorization", &bearer)]);
        client.request(web, asked).await
    };
    let good = signer.token(&claims(ISSUER, "somebody"));
    until("the keys", async || {
        (show(&good).await.status == StatusCode::OK).then_some(())
    })
    .await;
    assert!(
        server.asked()[0].starts_with("GET /jwks "),
        "{:?}",
        server.asked()
    );
    app.forget();
    let forged = Signer::new("RS256", "k1").token(&claims(ISSUER, "somebody"));
    let answer = show(&forged).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.text(), "Jwt verification fails");
    assert!(app.seen().is_empty());
    assert_eq!(http_get(pod.admin, "/problems").await.1, "");
}
