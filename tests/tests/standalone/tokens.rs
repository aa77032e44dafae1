//! RequestAuthentications in a folder: whose tokens are good, where keys come from, and what is closed without them.

use http::{Method, StatusCode};
use serde_json::json;
use waypoint_tests::key_server::{Answers, KeyServer};
use waypoint_tests::tokens::{Signer, claims, key_set};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{Mesh, Ztunnel};

const ISSUER: &str = "https://issuer.test";
const WEB: &str = "[{group: '', kind: Service, name: web}]";
const WAYPOINT: &str = "[{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]";

fn tokens(name: &str, targets: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{targetRefs: {targets}, jwtRules: [{{{rule}}}]}}\n"
    )
}

fn policy(rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec: {{targetRefs: {WEB}, rules: [{rules}]}}\n"
    )
}

fn inline(issuer: &str, signer: &Signer) -> String {
    format!("issuer: '{issuer}', jwks: '{}'", key_set(&[signer]))
}

async fn show(client: &Ztunnel, to: std::net::SocketAddr, token: &str) -> StatusCode {
    let bearer = format!("Bearer {token}");
    let asked = request(Method::GET, "/", &[("authorization", &bearer)]);
    client.request(to, asked).await.status
}

#[tokio::test]
async fn principals_audiences_and_nested_claims_decide() {
    let signer = Signer::new("ES256", "k1");
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let rule = inline(ISSUER, &signer) + ", outputClaimToHeaders: [{header: x-sub, claim: sub}]";
    mesh.manifest("tokens.yaml", &tokens("jwt", WEB, &rule));
    mesh.manifest(
        "policy.yaml",
        &policy(
            "{from: [{source: {requestPrincipals: ['https://issuer.test/boss']}}]}, \
             {when: [{key: 'request.auth.audiences', values: [api]}, {key: 'request.auth.presenter', values: [cli]}]}, \
             {when: [{key: 'request.auth.claims[realm][role]', values: [operator]}]}",
        ),
    );
    let (waypoint, client) = mesh.started().await;
    assert_eq!(waypoint.problems().await, "");
    let with = |more: &serde_json::Value| {
        let mut all = claims(ISSUER, "someone");
        let more = more.as_object().cloned().unwrap_or_default();
        all.as_object_mut().unwrap().extend(more);
        signer.token(&all)
    };
    for (token, status) in [
        (signer.token(&claims(ISSUER, "boss")), StatusCode::OK),
        (with(&json!({})), StatusCode::FORBIDDEN),
        (with(&json!({"aud": ["api"], "azp": "cli"})), StatusCode::OK),
        (with(&json!({"aud": "api"})), StatusCode::FORBIDDEN),
        (
            with(&json!({"realm": {"role": ["operator"]}})),
            StatusCode::OK,
        ),
        (
            Signer::new("ES256", "k1").token(&claims(ISSUER, "boss")),
            StatusCode::UNAUTHORIZED,
        ),
    ] {
        assert_eq!(show(&client, to, &token).await, status, "{token}");
    }
    // The application is told who it is; who has no token is nobody.
    assert_eq!(app.seen()[0].header("x-sub"), "boss");
    assert_eq!(client.get(to, "/").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn rules_of_a_service_stand_beside_those_of_the_gateway() {
    let (own, all) = (Signer::new("ES256", "own"), Signer::new("RS256", "all"));
    let mesh = Mesh::new();
    let (web, _) = mesh.http_service(1, "web").await;
    let (other, _) = mesh.http_service(2, "other").await;
    mesh.manifest("own.yaml", &tokens("own", WEB, &inline(ISSUER, &own)));
    let rule = inline("https://all.test", &all);
    mesh.manifest("all.yaml", &tokens("all", WAYPOINT, &rule));
    let (_waypoint, client) = mesh.started().await;
    let own = own.token(&claims(ISSUER, "a"));
    let all = all.token(&claims("https://all.test", "a"));
    for (to, token, status) in [
        (web, &own, StatusCode::OK),
        (web, &all, StatusCode::OK),
        (other, &all, StatusCode::OK),
        (other, &own, StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(show(&client, to, token).await, status);
    }
}

#[tokio::test]
async fn keys_are_fetched_from_a_service_or_an_address() {
    let signer = Signer::new("RS256", "k1");
    for by_name in [true, false] {
        let mesh = Mesh::new();
        let (to, _) = mesh.http_service(1, "web").await;
        let (_, backend) = mesh.bare_service(2, "keys");
        let server = KeyServer::start(backend, Answers::With(key_set(&[&signer]))).await;
        let host = match by_name {
            true => "keys.default.svc.cluster.local".to_owned(),
            false => backend.to_string(),
        };
        let rule = format!("issuer: '{ISSUER}', jwksUri: 'http://{host}/keys'");
        mesh.manifest("tokens.yaml", &tokens("jwt", WEB, &rule));
        let (waypoint, client) = mesh.started().await;
        assert_eq!(waypoint.problems().await, "");
        let good = signer.token(&claims(ISSUER, "a"));
        until("keys", async || {
            (show(&client, to, &good).await == StatusCode::OK).then_some(())
        })
        .await;
        let forged = Signer::new("RS256", "k1").token(&claims(ISSUER, "a"));
        assert_eq!(show(&client, to, &forged).await, StatusCode::UNAUTHORIZED);
        let asked = server.asked();
        assert!(asked[0].starts_with("GET /keys HTTP/1.1 "), "{asked:?}");
        assert!(asked[0].ends_with(&host), "{asked:?}");
    }
}

#[tokio::test]
async fn without_keys_the_target_is_closed_until_they_are_told() {
    let signer = Signer::new("ES256", "k1");
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (other, _) = mesh.http_service(2, "other").await;
    let rule = "issuer: somebody@issuer.test";
    mesh.manifest("tokens.yaml", &tokens("jwt", WEB, rule));
    let (waypoint, client) = mesh.started().await;
    let problem = "RequestAuthentication default/jwt (closed what it targets): spec.jwtRules[0].issuer: neither jwks nor jwksUri";
    assert!(waypoint.problems().await.contains(problem));
    let token = signer.token(&claims(ISSUER, "a"));
    let answer = client.get(to, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let text = answer.text();
    assert!(
        text.contains("closed by RequestAuthentication default/jwt"),
        "{text}"
    );
    assert!(app.seen().is_empty());
    assert_eq!(client.get(other, "/").await.status, StatusCode::OK);
    let told = async |name: &str, label: (&str, &str)| waypoint.metric(name, &[label]).await;
    let chains = "waypoint_filter_chains";
    assert_eq!(told(chains, ("state", "closed")).await, 1.0);
    let refused = "waypoint_config_refused";
    assert_eq!(told(refused, ("what", "object")).await, 1.0);

    let rule = format!("issuer: '{ISSUER}', jwksUri: 'https://web.default.svc/keys'");
    mesh.manifest("tokens.yaml", &tokens("jwt", WEB, &rule));
    waypoint
        .until_problem(
            "spec.jwtRules[0].jwksUri: web.default.svc.cluster.local has no TCP port 443; it has 80",
        )
        .await;
    mesh.manifest("tokens.yaml", &tokens("jwt", WEB, &inline(ISSUER, &signer)));
    until("the service to open", async || {
        (show(&client, to, &token).await == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(told(chains, ("state", "closed")).await, 0.0);
    assert_eq!(told(refused, ("what", "object")).await, 0.0);
    until("nothing to be told", async || {
        waypoint.problems().await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_issuer_is_asked_where_its_keys_are() {
    let signer = Signer::new("ES256", "k1");
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (_, issuer) = mesh.bare_service(2, "issuer");
    let (_, keys) = mesh.bare_service(3, "keys");
    let tells = KeyServer::start(issuer, Answers::Status(503)).await;
    let keys = KeyServer::start(keys, Answers::With(key_set(&[&signer]))).await;
    let name = "http://issuer.default.svc.cluster.local";
    let rule = format!("issuer: '{name}/'");
    mesh.manifest("tokens.yaml", &tokens("jwt", WEB, &rule));
    let (waypoint, client) = mesh.started().await;
    // As long as nobody knows its keys no token is good, and who has none is let through.
    waypoint
        .until_problem("doesn't say where its keys are: http://issuer.default.svc.cluster.local/.well-known/openid-configuration: the answer is 503")
        .await;
    let token = signer.token(&claims(&format!("{name}/"), "a"));
    assert_eq!(show(&client, to, &token).await, StatusCode::UNAUTHORIZED);
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    for (answers, problem) in [
        (Answers::With("{}".into()), "has no jwks_uri"),
        (Answers::Large(1 << 20), "the answer is too large"),
    ] {
        tells.set(answers);
        waypoint.until_problem(problem).await;
    }
    let at = "http://keys.default.svc.cluster.local/the-keys";
    tells.set(Answers::With(
        json!({"issuer": name, "jwks_uri": at}).to_string(),
    ));
    until("keys", async || {
        (show(&client, to, &token).await == StatusCode::OK).then_some(())
    })
    .await;
    until("nothing to be told", async || {
        waypoint.problems().await.is_empty().then_some(())
    })
    .await;
    let asked = &tells.asked()[0];
    assert_eq!(
        asked,
        "GET /.well-known/openid-configuration HTTP/1.1 issuer.default.svc.cluster.local"
    );
    assert!(
        keys.asked()[0].starts_with("GET /the-keys "),
        "{:?}",
        keys.asked()
    );
    let forged = Signer::new("ES256", "k1").token(&claims(&format!("{name}/"), "a"));
    assert_eq!(show(&client, to, &forged).await, StatusCode::UNAUTHORIZED);
}
